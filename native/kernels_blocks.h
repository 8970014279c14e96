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

// n_inputs (up to 256) of 16 rows that begin at rows[r] + at; next: what is fetched for the next time, from there on.
template <class Block>
static inline void open_strip(const uint8_t* const* rows, int64_t at, int64_t n_inputs, const uint8_t* const* next_rows,
                              int64_t next_at, OpenStrip* out) {
    constexpr int64_t G = Block::INPUTS / Block::GROUP;
    alignas(64) int8_t codes[STRIP][INPUTS];
    alignas(64) float scales[STRIP][GROUPS], offsets[STRIP][GROUPS];
    for (int64_t r = 0; r < STRIP; r++) {
        const uint8_t* block = rows[r] + at;
        for (int64_t i = 0; i < INPUTS / Block::INPUTS * Block::BYTES; i += LINE) prefetch(next_rows[r] + next_at + i);
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
#pragma GCC unroll 2
            for (int64_t quad = g * G; quad < (g + 1) * G; quad += 4) {
                Inputs inputs[N];
                for (int t = 0; t < N; t++) inputs[t] = load_inputs(x.codes + t * INPUTS + quad * 4);
#pragma GCC unroll 4
                for (int q = 0; q < 4; q++) {
                    const I32 weights = exact_weights(load_i(open.codes[quad + q] + row * 4));
                    for (int t = 0; t < N; t++) sums[t] = exact_dot(sums[t], weights, quad_of(inputs[t], q));
                }
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
    const int64_t columns = ceil_div(w.in, INPUTS), n_strips = ceil_div(least(ROWS, w.out - first_row), STRIP);
    const uint8_t* rows[ROWS + STRIP];  // of the next strip too; beyond the matrix its last row again
    for (int64_t r = 0; r < (n_strips + 1) * STRIP; r++) rows[r] = row_of_blocks<Block>(w, least(first_row + r, w.out - 1));
    OpenStrip open;
    auto meet = [&](int64_t strip, int64_t column, int64_t next_strip, int64_t next_column) {
        const int64_t n_inputs = least(INPUTS, w.in - column * INPUTS);
        open_strip<Block>(rows + strip * STRIP, column * COLUMN, n_inputs, rows + next_strip * STRIP,
                          next_column * COLUMN, &open);
        const Activations inputs = x.rounded.at(column, tokens.first);
        by_token_count<BLOCK_TOKENS>(tokens.n, [&]<int N>(int64_t t) {
            strip_dot<N, Block>(open, n_inputs / Block::GROUP, inputs.from(t), acc + t * ROWS + strip * STRIP);
        });
    };
    // Either way a row is summed from its first column to its last.
    if (tokens.n <= FEW_TOKENS) {
        for (int64_t strip = 0; strip < n_strips; strip++)
            for (int64_t column = 0; column < columns; column++) {
                const bool last = column + 1 == columns;
                meet(strip, column, strip + last, last ? 0 : column + 1);
            }
    } else {
        for (int64_t column = 0; column < columns; column++)
            for (int64_t strip = 0; strip < n_strips; strip++) {
                const bool last = strip + 1 == n_strips;
                meet(strip, column, last ? 0 : strip + 1, column + last);
            }
    }
}

static void block_product(const Matrix& w, int64_t first_row, const Tokens& x, Span tokens, float* acc) {
    by_block(w.format, [&]<class Block>() { blocks_product<Block>(w, first_row, x, tokens, acc); });
}

}  // namespace octuor::OCTUOR_ISA
