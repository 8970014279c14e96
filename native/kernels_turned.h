// Products with weights that lie inputs first: 64 rows side by side times one input after the other.
#pragma once

namespace octuor::OCTUOR_ISA {

// acc [N][64] += V vectors of rows, n inputs from `numbers` [n][64] on, times N tokens, summed from the first input on.
template <int V, int N>
static inline void run_dot(const float* numbers, int64_t n, const float* x, int64_t width, float* acc) {
    F32 sums[V][N];
    for (int v = 0; v < V; v++)
        for (int t = 0; t < N; t++) sums[v][t] = set1(0.0f);
    for (int64_t i = 0; i < n; i++) {
        F32 rows[V];
        for (int v = 0; v < V; v++) rows[v] = load(numbers + i * ROWS + v * W);
        for (int t = 0; t < N; t++) {
            const F32 input = set1(x[t * width + i]);
            for (int v = 0; v < V; v++) sums[v][t] = fma(rows[v], input, sums[v][t]);
        }
    }
    for (int v = 0; v < V; v++)
        for (int t = 0; t < N; t++) {
            float* at = acc + t * ROWS + v * W;
            store(at, add(load(at), sums[v][t]));
        }
}

// spare: turned_spare(w) floats.
static void turned_product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc, float* spare) {
    constexpr int V = ROWS_AT_ONCE;
    alignas(64) float numbers[RUN * ROWS];
    by_turned(w.format, [&]<class Codes>() {
        const TurnedRows<Codes> rows(w, first_row, spare);
        for (int64_t from = 0; from < w.in; from += RUN) {
            const int64_t n = least(RUN, w.in - from);
            rows.decode(from, n, numbers);
            by_token_count<TOKENS_AT_ONCE>(tokens.n, [&]<int N>(int64_t t) {
                for (int64_t r = 0; r < ROWS; r += V * W)
                    run_dot<V, N>(numbers + r, n, x.plain + (tokens.first + t) * x.width + from, x.width,
                                  acc + t * ROWS + r);
            });
        }
    });
}

// Rows first_row to first_row + 64, those that there are, one after another in out.
static void decode_turned(const Matrix& w, int64_t first_row, float* spare, float* out) {
    alignas(64) float numbers[RUN * ROWS];
    by_turned(w.format, [&]<class Codes>() {
        const TurnedRows<Codes> rows(w, first_row, spare);
        for (int64_t from = 0; from < w.in; from += RUN) {
            const int64_t n = least(RUN, w.in - from);
            rows.decode(from, n, numbers);
            for (int64_t r = 0; r < rows.n_rows; r += W)
                for (int64_t i = 0; i < n; i += W) {
                    float* to = out + r * w.in + from + i;
                    if (r + W <= rows.n_rows && i + W <= n) {
                        transpose(reinterpret_cast<const int32_t*>(numbers + i * ROWS + r), ROWS,
                                  reinterpret_cast<int32_t*>(to), w.in);
                        continue;
                    }
                    for (int64_t row = r; row < least(r + W, rows.n_rows); row++)
                        for (int64_t input = i; input < least(i + W, n); input++)
                            out[row * w.in + from + input] = numbers[input * ROWS + row];
                }
        }
    });
}

}  // namespace octuor::OCTUOR_ISA
