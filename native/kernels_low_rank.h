// Low-rank changes of several adapters, each for its own tokens; and SwiGLU by itself, for experts that are changed.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int LOW_RANK_TOKENS = 4;  // side by side; each one's sums have the same order as if it were alone

// to[t] = x[t] . y for N rows of x, `stride` apart
template <int N>
static inline void dots(const float* x, int64_t stride, const float* y, int64_t n, float* to, int64_t to_stride) {
    const int64_t whole = n / W * W;
    F32 sums[N][2];
    for (int t = 0; t < N; t++) sums[t][0] = sums[t][1] = set1(0.0f);
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W)
        for (int j = 0; j < 2; j++) {
            const F32 part = load(y + i + j * W);
            for (int t = 0; t < N; t++) sums[t][j] = fma(load(x + t * stride + i + j * W), part, sums[t][j]);
        }
    for (; i < n; i += W) {
        const F32 part = i < whole ? load(y + i) : load_n(y + i, n - i);
        for (int t = 0; t < N; t++) {
            const float* at = x + t * stride + i;
            sums[t][0] = fma(i < whole ? load(at) : load_n(at, n - i), part, sums[t][0]);
        }
    }
    for (int t = 0; t < N; t++) to[t * to_stride] = sum(add(sums[t][0], sums[t][1]));
}

// out[t][0..n) += sum_j weights[t][j] * rows[j][0..n) for N tokens
template <int N>
static inline void add_rows(const float* weights, int64_t weight_stride, const float* rows, int64_t n_rows,
                            int64_t row_stride, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i += W) {
        const bool whole = i + W <= n;
        F32 totals[N];
        for (int t = 0; t < N; t++) {
            const float* at = out + t * row_stride + i;
            totals[t] = whole ? load(at) : load_n(at, n - i);
        }
        for (int64_t j = 0; j < n_rows; j++) {
            const float* at = rows + j * row_stride + i;
            const F32 row = whole ? load(at) : load_n(at, n - i);
            for (int t = 0; t < N; t++) totals[t] = fma(set1(weights[t * weight_stride + j]), row, totals[t]);
        }
        for (int t = 0; t < N; t++) {
            float* at = out + t * row_stride + i;
            if (whole) store(at, totals[t]);
            else store_n(at, totals[t], n - i);
        }
    }
}

// Two passes: all tokens' inputs to their ranks, then from there to the outputs.
static void low_rank(Team* team, const LowRankCall* call) {
    constexpr int64_t RANKS = 8, OUTPUTS = 512, N = LOW_RANK_TOKENS;  // of one task
    int64_t most = 0;
    for (int64_t s = 0; s < call->n_slots; s++)
        if (call->changes[s].rank > most) most = call->changes[s].rank;
    if (!most) return;
    const LowRankCall c = *call;
    float* inner = static_cast<float*>(team->scratch(team, HIDDEN_PLAIN_SLOT, size_t(c.n_tokens * most) * sizeof(float)));
    const int64_t n_blocks = ceil_div(c.n_tokens, N), n_ranks = ceil_div(most, RANKS), n_outputs = ceil_div(c.out, OUTPUTS);
    const bool small = c.n_tokens * most * (c.in + c.out) < SMALL_WORK;
    // Calls one(t) or all(t) for the tokens of a block, the second where all of them share a slot.
    auto each = [=](int64_t block, auto one, auto all) {
        const int64_t first = block * N, last = least(first + N, c.n_tokens);
        bool together = last - first == N && c.slots[first] >= 0;
        for (int64_t t = first; t < last; t++) together = together && c.slots[t] == c.slots[first];
        if (together) return all(first);
        for (int64_t t = first; t < last; t++)
            if (c.slots[t] >= 0) one(t);
    };
    parallel(team, n_blocks * n_ranks, small, [=](int64_t i, int) {
        const int64_t from = i % n_ranks * RANKS;
        auto run = [=](int64_t t, auto dots_of) {
            const LowRankChange& change = c.changes[c.slots[t]];
            for (int64_t r = from; r < least(from + RANKS, change.rank); r++)
                dots_of(c.x + t * c.in, c.in, change.a + r * c.in, c.in, inner + t * most + r, most);
        };
        each(i / n_ranks, [=](int64_t t) { run(t, dots<1>); }, [=](int64_t t) { run(t, dots<N>); });
    });
    parallel(team, n_blocks * n_outputs, small, [=](int64_t i, int) {
        const int64_t from = i % n_outputs * OUTPUTS;
        auto run = [=](int64_t t, auto add_of) {
            const LowRankChange& change = c.changes[c.slots[t]];
            add_of(inner + t * most, most, change.b + from, change.rank, c.out, least(OUTPUTS, c.out - from),
                   c.result + t * c.out + from);
        };
        each(i / n_outputs, [=](int64_t t) { run(t, add_rows<1>); }, [=](int64_t t) { run(t, add_rows<N>); });
    });
}

static void swiglu_rows(Team* team, const float* gate, const float* up, int64_t n, float* out) {
    constexpr int64_t PIECE = 4096;
    parallel(team, ceil_div(n, PIECE), n < SMALL_WORK, [=](int64_t i, int) {
        const int64_t last = least(n, (i + 1) * PIECE);
        int64_t at = i * PIECE;
        for (; at + W <= last; at += W) store(out + at, swiglu(load(gate + at), load(up + at)));
        if (at < last) store_n(out + at, swiglu(load_n(gate + at, last - at), load_n(up + at, last - at)), last - at);
    });
}

}  // namespace octuor::OCTUOR_ISA
