// Products with llama.cpp's blocks, in integers: codes times rounded inputs, each group's sum then times its scale.
//
// Rows of blocks are opened 16 rows x 256 inputs at a time into what products of tiles look like: lines of 16 rows x 4
// inputs, so that sums of rows lie side by side. An open strip meets all tokens while it is in L1.
#pragma once

namespace octuor::OCTUOR_ISA {

struct OpenStrip {
    alignas(64) uint8_t codes[QUADS][LINE];  // of 16 rows x 4 inputs
    alignas(64) float scales[GROUPS][STRIP], offsets[GROUPS][STRIP];
};

// to [width][16 words] = from [16][width words] turned; width is a multiple of 16.
static inline void turn_words(const void* from, int64_t width, void* to) {
    for (int64_t row = 0; row < STRIP; row += W)
        for (int64_t word = 0; word < width; word += W)
            transpose(static_cast<const int32_t*>(from) + row * width + word, width,
                      static_cast<int32_t*>(to) + word * STRIP + row, STRIP);
}

// n_inputs (up to 256) from input `from` on of up to 16 rows; what is beyond them is zero, or anything where it is rows.
template <class Block>
static inline void open_strip(const uint8_t* first, int64_t row_bytes, int64_t n_rows, int64_t n_inputs,
                              int64_t next, OpenStrip* out) {
    constexpr int64_t G = Block::INPUTS / Block::GROUP;
    alignas(64) int8_t codes[STRIP][INPUTS];
    alignas(64) float scales[STRIP][GROUPS], offsets[STRIP][GROUPS];
    for (int64_t r = 0; r < STRIP; r++) {
        const uint8_t* block = first + least(r, n_rows - 1) * row_bytes;
        if (next)
            for (int64_t at = 0; at < INPUTS / Block::INPUTS * Block::BYTES; at += LINE) prefetch(block + next + at);
        if (n_inputs < INPUTS) memset(codes[r], 0, INPUTS);
        for (int64_t i = 0; i < n_inputs / Block::INPUTS; i++, block += Block::BYTES)
            Block::unpack(block, {codes[r] + i * Block::INPUTS, scales[r] + i * G, offsets[r] + i * G});
    }
    turn_words(codes, QUADS, out->codes);
    turn_words(scales, GROUPS, out->scales);
    if (Block::OFFSETS) turn_words(offsets, GROUPS, out->offsets);
}

// acc [N][64] += 16 rows . activations
template <int N, class Block>
static inline void strip_dot(const OpenStrip& open, int64_t n_groups, Activations x, float* acc) {
    constexpr int64_t G = Block::GROUP / 4, SUMS = Block::GROUP / GROUP;
    for (int row = 0; row < STRIP; row += W) {
        F32 totals[N];
        for (int t = 0; t < N; t++) totals[t] = set1(0.0f);
        for (int64_t g = 0; g < n_groups; g++) {
            const F32 scale = load(open.scales[g] + row), offset = load(open.offsets[g] + row);
            I32 sums[N];
            int group_sums[N];
            for (int t = 0; t < N; t++) {
                const int16_t* parts = x.group_sums + t * GROUPS + g * SUMS;
                group_sums[t] = SUMS == 2 ? parts[0] + parts[1] : parts[0];
                sums[t] = set1_i(exact_start(group_sums[t]));
            }
#pragma GCC unroll 8
            for (int64_t quad = g * G; quad < (g + 1) * G; quad++) {
                const I32 weights = exact_weights(load_i(open.codes[quad] + row * 4));
                for (int t = 0; t < N; t++)
                    sums[t] = exact_dot(sums[t], weights, broadcast(x.codes + t * INPUTS + quad * 4));
            }
            for (int t = 0; t < N; t++) {
                totals[t] = fma(to_f32(sums[t]), scale, totals[t]);
                if (Block::OFFSETS) totals[t] = fnma(offset, set1(float(group_sums[t])), totals[t]);
            }
        }
        for (int t = 0; t < N; t++) {
            float* at = acc + t * ROWS + row;
            store(at, fma(totals[t], set1(x.scales[t]), load(at)));
        }
    }
}

template <class Block>
static void blocks_product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc) {
    constexpr int64_t COLUMN = INPUTS / Block::INPUTS * Block::BYTES;
    const int64_t row_bytes = w.in / Block::INPUTS * Block::BYTES, columns = ceil_div(w.in, INPUTS);
    const int64_t n_rows = least(ROWS, w.out - first_row);
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + first_row * row_bytes;
    OpenStrip open;
    auto meet = [&](int64_t row, int64_t column) {
        const int64_t n_inputs = least(INPUTS, w.in - column * INPUTS);
        // The next column of these rows, or the first one of the next 16.
        const int64_t next = column + 1 < columns ? COLUMN : STRIP * row_bytes - column * COLUMN;
        open_strip<Block>(data + row * row_bytes + column * COLUMN, row_bytes, least(STRIP, n_rows - row), n_inputs, next,
                          &open);
        const Activations inputs = x.rounded.at(column, tokens.first);
        by_token_count<BLOCK_TOKENS>(tokens.n, [&]<int N>(int64_t t) {
            strip_dot<N, Block>(open, n_inputs / Block::GROUP, inputs.from(t), acc + t * ROWS + row);
        });
    };
    // Either way a row is summed from its first column to its last.
    if (tokens.n <= FEW_TOKENS)
        for (int64_t row = 0; row < n_rows; row += STRIP)
            for (int64_t column = 0; column < columns; column++) meet(row, column);
    else
        for (int64_t column = 0; column < columns; column++)
            for (int64_t row = 0; row < n_rows; row += STRIP) meet(row, column);
}

static void block_product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc) {
    by_block(w.format, [&]<class Block>() { blocks_product<Block>(w, first_row, x, tokens, acc); });
}

}  // namespace octuor::OCTUOR_ISA
