// Exact products of an unpacked tile with Arm's smmla: 2 rows x 8 inputs times 2 tokens x 8 inputs, twice the products
// of an sdot. Two lines of the stored interleave, zipped, are its first operands, two tokens' inputs its second.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr bool HAS_MATRIX_UNIT = true;
constexpr int64_t SPARE_TOKENS = 0;

struct MatrixUnit {
    explicit MatrixUnit(bool) {}
};

// Codes in the stored interleave to [4 strips][32 pairs of quads][16 rows][8 inputs].
static inline void zip_lines(const uint8_t* codes, uint8_t* to) {
    for (int64_t line = 0; line < ROWS * INPUTS; line += 2 * LINE)
        for (int64_t i = 0; i < LINE; i += 4 * W) {
            const I32 even = load_i(codes + line + i), odd = load_i(codes + line + LINE + i);
            store_i(to + line + 2 * i, vzip1q_s32(even, odd));
            store_i(to + line + 2 * i + 4 * W, vzip2q_s32(even, odd));
        }
}

// n tokens, P pairs of them; the last may stand alone.
template <int P>
__attribute__((noinline)) static void matrix_block(const uint8_t* zipped, const uint8_t* tile, Activations x, int64_t n,
                                                   float* acc) {
    constexpr int R = STRIP / 2;  // pairs of rows
    alignas(64) int8_t inputs[P][2 * INPUTS];
    for (int p = 0; p < P; p++) {
        const int8_t *even = x.codes + 2 * p * INPUTS, *odd = 2 * p + 1 < n ? even + INPUTS : even;
        for (int64_t i = 0; i < INPUTS; i += 16) {
            const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(even + i)), b = vreinterpretq_s64_s8(vld1q_s8(odd + i));
            vst1q_s8(inputs[p] + 2 * i, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
            vst1q_s8(inputs[p] + 2 * i + 16, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
        }
    }
    for (int64_t strip = 0; strip < STRIPS; strip++) {
        const uint8_t* codes = zipped + strip * STRIP_BYTES;
        I32 sums[R][P];
        for (int r = 0; r < R; r++)
            for (int p = 0; p < P; p++) sums[r][p] = set1_i(0);
#pragma GCC unroll 1
        for (int64_t i = 0; i < 2 * INPUTS; i += 16, codes += 2 * LINE) {
            int8x16_t tokens[P];
            for (int p = 0; p < P; p++) tokens[p] = vld1q_s8(inputs[p] + i);
            for (int r = 0; r < R; r++) {
                const int8x16_t rows = as_bytes(load_i(codes + 16 * r));
                for (int p = 0; p < P; p++) sums[r][p] = vmmlaq_s32(sums[r][p], rows, tokens[p]);
            }
        }
        for (int r = 0; r < R; r += 2) {
            const int64_t row = strip * STRIP + 2 * r;
            const F32 scale = row_scales(tile, row);
            for (int p = 0; p < P; p++) {
                const I32 both[2] = {vuzp1q_s32(sums[r][p], sums[r + 1][p]), vuzp2q_s32(sums[r][p], sums[r + 1][p])};
                for (int t = 2 * p; t < 2 * p + 2 && t < n; t++) {
                    float* at = acc + t * ROWS + row;
                    store(at, fma(to_f32(both[t % 2]), mul(scale, set1(x.scales[t])), load(at)));
                }
            }
        }
    }
}

// acc [n][64] += (codes that went through exact_weights) . activations, times both scales. Returns how many of the
// tokens it took: all.
static inline int64_t matrix_product(const uint8_t* codes, const uint8_t* tile, Activations x, int64_t n, float* acc,
                                     Ahead* ahead, int lines_a_token) {
    alignas(64) uint8_t zipped[ROWS * INPUTS];
    zip_lines(codes, zipped);
    for (int64_t t = 0; t < n; t += 4) {  // with 6 tokens gcc 12 spills
        const int64_t here = n - t < 4 ? n - t : 4;
        ahead->lines(int(here) * lines_a_token);
        auto* block = here > 2 ? matrix_block<2> : matrix_block<1>;
        block(zipped, tile, x.from(t), here, acc + t * ROWS);
    }
    return n;
}

}  // namespace octuor::OCTUOR_ISA
