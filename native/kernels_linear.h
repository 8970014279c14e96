// Products with weights: linear, embed and dequantize.
//
// Everything is built on `product`: 64 rows of a weight times some tokens, into acc [tokens][64]. It is the one
// place that knows the formats; linear and moe decide which rows meet which tokens on which thread. Plain weights are
// multiplied as they lie, tiled ones and llama.cpp's blocks in integers.
#pragma once

namespace octuor::OCTUOR_ISA {

// out[r][t] = a[r] . b[t] over n inputs, for R rows of weights and N rows of inputs: W sums each, folded at the end, in
// the same order for any R and N. Meanwhile as many bytes as the weights take are fetched from `next` on; null: none.
template <int R, int N, class T>
static inline void dots(const T* const* a, const float* const* b, int64_t n, float (&out)[R][N], const uint8_t* next) {
    F32 sums[R][N];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < N; t++) sums[r][t] = set1(0.0f);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        if (next)
            for (size_t at = 0; at < R * W * sizeof(T); at += LINE) prefetch_far(next + i * R * sizeof(T) + at);
        F32 inputs[N];
        for (int t = 0; t < N; t++) inputs[t] = load(b[t] + i);
        for (int r = 0; r < R; r++) {
            const F32 weights = load(a[r] + i);
            for (int t = 0; t < N; t++) sums[r][t] = fma(weights, inputs[t], sums[r][t]);
        }
    }
    if (i < n)
        for (int r = 0; r < R; r++)
            for (int t = 0; t < N; t++) sums[r][t] = fma(load_n(a[r] + i, n - i), load_n(b[t] + i, n - i), sums[r][t]);
    float* flat = &out[0][0];
    const F32* each = &sums[0][0];
    int s = 0;
    for (; s + 4 <= R * N; s += 4) store_sums(flat + s, each[s], each[s + 1], each[s + 2], each[s + 3]);
    for (; s < R * N; s++) flat[s] = sum(each[s]);
}

// R rows of n inputs times all tokens of a span: acc[t * 64 + r] += ...
template <int R, class T>
static inline void plain_rows(const T* const* rows, const float* x, int64_t width, Span tokens, int64_t n, float* acc,
                              const uint8_t* next) {
    auto block = [&]<int N>(int64_t t) {
        const float* inputs[N];
        for (int i = 0; i < N; i++) inputs[i] = x + (tokens.first + t + i) * width;
        float out[R][N];
        dots<R, N>(rows, inputs, n, out, t ? nullptr : next);
        for (int i = 0; i < N; i++)
            for (int r = 0; r < R; r++) acc[(t + i) * ROWS + r] += out[r][i];
    };
    constexpr int N = TOKENS_AT_ONCE;
    int64_t t = 0;
    for (; t + N <= tokens.n; t += N) block.template operator()<N>(t);
    if (N > 2 && t + 2 <= tokens.n) block.template operator()<2>(t), t += 2;
    if (t < tokens.n) block.template operator()<1>(t);
}

// Where plain_product takes its rows from: those of a plain weight as they lie.
template <class T>
struct PlainRows {
    using Number = T;
    static constexpr int64_t PANEL = 1024;
    const Matrix& w;

    // Inputs from to from + n of R rows. Returns what to fetch meanwhile, null: nothing. row_by_row: the next panel of
    // the same rows comes next.
    template <int R>
    const uint8_t* get(int64_t row, int64_t from, int64_t, bool row_by_row, const T* (&rows)[R]) {
        constexpr int64_t LEAST_AHEAD = int64_t(16384 / sizeof(T));
        const T* base = static_cast<const T*>(w.data) + row * w.in;
        for (int i = 0; i < R; i++) rows[i] = base + i * w.in + from;
        const int64_t ahead = R * w.in > LEAST_AHEAD ? R * w.in : LEAST_AHEAD;
        return row_by_row ? reinterpret_cast<const uint8_t*>(base + R * from + ahead) : nullptr;
    }
};

// A row is summed in panels of inputs, and those in order, for any number of tokens. Weights meet all tokens while they
// are in L1: a panel of all rows before the next where the inputs would not stay in L2, all panels of some rows before
// the next rows where they do. The latter reads weights nearly as they lie; fetched line after line, rows ahead and no
// nearer than L2, they come at the memory's pace.
template <class Rows>
static void plain_product(Rows&& source, const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc) {
    constexpr int64_t PANEL = Rows::PANEL, L2_INPUTS = 1 << 18;
    const int64_t n_rows = least(ROWS, w.out - first_row);
    auto panel = [&]<int R>(int64_t r, int64_t from, bool row_by_row) {
        const typename Rows::Number* rows[R];
        const int64_t n = least(PANEL, w.in - from);
        const uint8_t* next = source.template get<R>(first_row + r, from, n, row_by_row, rows);
        plain_rows<R>(rows, x.plain + from, x.width, tokens, n, acc + r, next);
    };
    auto all_rows = [&](int64_t from, int64_t end, bool row_by_row) {
        constexpr int R = ROWS_AT_ONCE;
        int64_t r = 0;
        for (; r + R <= n_rows; r += R)
            for (int64_t at = from; at < end; at += PANEL) panel.template operator()<R>(r, at, row_by_row);
        for (; r < n_rows; r++)
            for (int64_t at = from; at < end; at += PANEL) panel.template operator()<1>(r, at, row_by_row);
    };
    if (tokens.n * w.in <= L2_INPUTS) return all_rows(0, w.in, true);
    for (int64_t from = 0; from < w.in; from += PANEL) all_rows(from, least(from + PANEL, w.in), false);
}

// then: what this thread reads next, fetched while the last tile is worked on; may be null.
template <class Tile>
static void tiled_product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc,
                          const uint8_t* then) {
    alignas(64) uint8_t unpacked[ROWS * INPUTS];
    constexpr int64_t AHEAD = Tile::BYTES < 6144 ? 2 : 1;  // tiles, about what memory takes to answer
    const int64_t blocks = ceil_div(w.in, INPUTS);
    const uint8_t* tile = static_cast<const uint8_t*>(w.data) + first_row / ROWS * blocks * Tile::BYTES;
    const MatrixUnit unit(tokens.n > FEW_TOKENS);
    for (int64_t b = 0; b < blocks; b++, tile += Tile::BYTES) {
        const int64_t left = blocks - b;
        Ahead ahead = {tile + AHEAD * Tile::BYTES};
        if (left <= AHEAD) ahead.at = then ? then + (AHEAD - left) * Tile::BYTES : nullptr;
        const Activations inputs = x.rounded.at(b, tokens.first);
        if constexpr (UNPACKS_TILES) {
            if (tokens.n > FEW_TOKENS) {
                // Unpacking takes about as long as a block of 4 tokens.
                const int lines = int(ceil_div(Tile::BYTES / LINE, (ceil_div(tokens.n, TILE_TOKENS) + 1) * STEPS));
                Tile::template unpack<ByteScale>(tile, unpacked, ahead.take(lines * int(STEPS)), lines);
                const int64_t done = matrix_product(unpacked, tile, inputs, tokens.n, acc, &ahead,
                                                    int(ceil_div(lines * STEPS, TILE_TOKENS)));
                by_token_count<TILE_TOKENS>(tokens.n - done, [&]<int N>(int64_t i) {
                    const Ahead part = ahead.take(lines * int(STEPS));
                    const int64_t t = done + i;
                    exact_tile<N, false>(unpacked, tile, inputs.from(t), acc + t * ROWS, part, lines);
                });
                continue;
            }
        }
        if constexpr (Tile::OPENS) {
            if (tokens.n > FEW_TOKENS) {
                OpenTile open;
                Tile::template open<GroupPairs>(tile, &open);
                const int lines = int(ceil_div(Tile::BYTES / LINE, ceil_div(tokens.n, OPEN_TILE_TOKENS) * OPEN_STEPS));
                by_token_count<OPEN_TILE_TOKENS>(tokens.n, [&]<int N>(int64_t t) {
                    const Ahead part = ahead.take(lines * OPEN_STEPS);
                    open_tile_dot<N, Tile::OFFSET_BITS>(open, tile, inputs.from(t), acc + t * ROWS, part, lines);
                });
                continue;
            }
        }
        by_token_count(tokens.n, [&]<int N>(int64_t t) {
            Tile::template dot<N>(tile, inputs.from(t), acc + t * ROWS, ahead);
            ahead = Ahead();
        });
    }
}

// acc [n][64] = rows first_row to first_row + 64 (a multiple of 64) times the tokens; rows beyond w.out
// leave anything there. spare: turned_spare(w) floats.
static void product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc, float* spare,
                    const uint8_t* then = nullptr) {
    memset(acc, 0, size_t(tokens.n * ROWS) * sizeof(float));
    switch (w.format) {
        case Format::f32: return plain_product(PlainRows<float>{w}, w, first_row, x, tokens, acc);
        case Format::f16: return plain_product(PlainRows<f16>{w}, w, first_row, x, tokens, acc);
        case Format::bf16: return plain_product(PlainRows<bf16>{w}, w, first_row, x, tokens, acc);
        default: break;
    }
    if (is_blocks(w.format)) return block_product(w, first_row, x, tokens, acc);
    if (is_turned(w.format)) return turned_product(w, first_row, x, tokens, acc, spare);
    if (!is_tiled(w.format)) return plain_product(DecodedRows(w), w, first_row, x, tokens, acc);
    by_tile(w.format, [&]<class Tile>() { tiled_product<Tile>(w, first_row, x, tokens, acc, then); });
}

// Where rows from first_row on begin, for tiled_product; null: they are not tiled.
static inline const uint8_t* row_address(const Matrix& w, int64_t first_row) {
    const auto* data = static_cast<const uint8_t*>(w.data);
    if (!is_tiled(w.format)) return nullptr;
    const int64_t tiles = first_row / ROWS * ceil_div(w.in, INPUTS);
    return data + tiles * by_tile(w.format, []<class Tile>() { return Tile::BYTES; });
}

static void linear(Team* team, const float* x, int64_t n_tokens, const Matrix* weight, float* out) {
    const Matrix w = *weight;
    Tokens tokens = {x, {}, w.in};
    if (is_rounded(w.format)) tokens.rounded = round_tokens(team, x, nullptr, n_tokens, w.in);
    const int64_t row_tiles = ceil_div(w.out, ROWS), token_blocks = ceil_div(n_tokens, TOKEN_BLOCK);
    // A task is a run of row tiles, one linear stream; some for each thread, so that a late one costs little.
    const int64_t run = token_blocks > 1 ? 1 : 1 + row_tiles / (8 * team->n_threads + 1);
    const int64_t runs = ceil_div(row_tiles, run);
    constexpr int64_t ACC = TOKEN_BLOCK * ROWS;
    const int64_t floats = ACC + turned_spare(w);
    float* memory = reinterpret_cast<float*>(thread_scratch(team, size_t(floats) * sizeof(float)));
    parallel(team, runs * token_blocks, w.out * w.in * n_tokens < SMALL_WORK, [=](int64_t i, int thread) {
        float *acc = memory + thread * floats, *spare = acc + ACC;
        const int64_t first = i % token_blocks * TOKEN_BLOCK, n = least(TOKEN_BLOCK, n_tokens - first);
        const int64_t end = least(row_tiles, (i / token_blocks + 1) * run);
        for (int64_t tile = i / token_blocks * run; tile < end; tile++) {
            const int64_t row = tile * ROWS;
            product(w, row, tokens, {first, n}, acc, spare, tile + 1 < end ? row_address(w, row + ROWS) : nullptr);
            for (int64_t t = 0; t < n; t++)
                memcpy(out + (first + t) * w.out + row, acc + t * ROWS, size_t(least(ROWS, w.out - row)) * 4);
        }
    });
}

template <class Tile>
static void widen_tiled_row(const Matrix& w, int64_t row, float* to) {
    const uint8_t* tile = static_cast<const uint8_t*>(w.data) + row / ROWS * ceil_div(w.in, INPUTS) * Tile::BYTES;
    for (int64_t i = 0; i < w.in; i++) to[i] = Tile::at(tile + i / INPUTS * Tile::BYTES, row % ROWS, i % INPUTS);
}

// One row of a weight in any format as float32.
static void weight_row(const Matrix& w, int64_t row, float* to) {
    const int64_t at = row * w.in;
    switch (w.format) {
        case Format::f32: return widen_row(static_cast<const float*>(w.data) + at, w.in, to);
        case Format::f16: return widen_row(static_cast<const f16*>(w.data) + at, w.in, to);
        case Format::bf16: return widen_row(static_cast<const bf16*>(w.data) + at, w.in, to);
        default: break;
    }
    if (is_blocks(w.format))
        return by_block(w.format, [&]<class Block>() { decode_blocks<Block>(w, row, to); });
    if (is_turned(w.format))
        return by_turned(w.format, [&]<class Codes>() {
            for (int64_t i = 0; i < w.in; i++) to[i] = turned_at<Codes>(w, row, i);
        });
    if (!is_tiled(w.format)) return decode_row(w, row, to);
    by_tile(w.format, [&]<class Tile>() { widen_tiled_row<Tile>(w, row, to); });
}

// Some rows of a tiled weight from first_row on, a multiple of 64, as float32.
template <class Tile>
static void widen_tiles(const Matrix& w, int64_t first_row, int64_t n_rows, float* to) {
    const uint8_t* tiles = row_address(w, first_row);
    for (int64_t strip = 0; strip * STRIP < n_rows; strip++)
        for (int64_t i = 0; i < w.in; i += GROUP) {
            const uint8_t* tile = tiles + i / INPUTS * Tile::BYTES;
            float* out = to + strip * STRIP * w.in + i;
            const int64_t rows = least(STRIP, n_rows - strip * STRIP), inputs = least(GROUP, w.in - i);
            if (rows == STRIP && inputs == GROUP) {
                Tile::numbers(tile, strip, i % INPUTS / GROUP, w.in, out);
                continue;
            }
            float whole[STRIP * GROUP];
            Tile::numbers(tile, strip, i % INPUTS / GROUP, GROUP, whole);
            for (int64_t row = 0; row < rows; row++)
                memcpy(out + row * w.in, whole + row * GROUP, size_t(inputs) * sizeof(float));
        }
}

// Rows from first_row on, a multiple of 64 and at most 64 of them, as float32. spare: turned_spare(w) floats.
static void decode_rows(const Matrix& w, int64_t first_row, int64_t n_rows, float* spare, float* to) {
    if (is_turned(w.format)) return decode_turned(w, first_row, spare, to);
    if (is_tiled(w.format))
        return by_tile(w.format, [&]<class Tile>() { widen_tiles<Tile>(w, first_row, n_rows, to); });
    for (int64_t row = 0; row < n_rows; row++) weight_row(w, first_row + row, to + row * w.in);
}

static void dequantize(Team* team, const Matrix* weight, Format to, void* out) {
    const Matrix w = *weight;
    const bool halves = to == Format::bf16;
    const int64_t spare = turned_spare(w), floats = spare + (halves ? ROWS * w.in : 0);
    float* memory = reinterpret_cast<float*>(thread_scratch(team, size_t(floats) * sizeof(float)));
    parallel(team, ceil_div(w.out, ROWS), w.out * w.in < SMALL_WORK, [=](int64_t i, int thread) {
        const int64_t first = i * ROWS, n_rows = least(ROWS, w.out - first), n = n_rows * w.in;
        float *own = memory + thread * floats, *rows = own + spare;
        if (!halves) return decode_rows(w, first, n_rows, own, static_cast<float*>(out) + first * w.in);
        decode_rows(w, first, n_rows, own, rows);
        auto* rounded = static_cast<uint16_t*>(out) + first * w.in;
        for (int64_t at = 0; at < n; at++) {  // to the nearest, ties to even
            const uint32_t bits = __builtin_bit_cast(uint32_t, rows[at]);
            rounded[at] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        }
    });
}

static void embed(const Matrix* weight, const int32_t* tokens, int64_t n_tokens, float* out) {
    for (int64_t t = 0; t < n_tokens; t++) weight_row(*weight, tokens[t], out + t * weight->in);
}

}  // namespace octuor::OCTUOR_ISA
