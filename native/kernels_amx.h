// Exact products of an unpacked tile on the matrix unit, for instruction sets that have one.
//
// A line of the stored interleave, 16 rows x 4 inputs, is a line of the unit's second operand; 64 inputs of 16 tokens,
// as they lie in Activations, are its first. Two blocks of 16 tokens meet two strips at a time: 4 tiles of sums, each
// loaded line used twice.
#pragma once

#ifdef OCTUOR_AMX
#include "vec_amx.h"
#endif

namespace octuor::OCTUOR_ISA {

#ifdef OCTUOR_AMX

constexpr bool HAS_MATRIX_UNIT = true;
constexpr int64_t SPARE_TOKENS = MATRIX_ROWS - 1;  // a block is read in full, also beyond the last token
constexpr int64_t FEW_FOR_MATRIX = 3;              // tokens beyond whole blocks that are left to exact_tile

// acc [n][64] += sums [n][16 rows] of a strip, with the start of each token and times both scales
static inline void add_matrix_sums(const int32_t (*sums)[STRIP], int64_t n, F32 scale, Activations x, float* acc) {
    for (int64_t t = 0; t < n; t++) {
        const I32 sum = _mm512_add_epi32(load_i(sums[t]), set1_i(x.exact_starts[t]));
        float* at = acc + t * ROWS;
        store(at, fma(to_f32(sum), mul(scale, set1(x.scales[t])), load(at)));
    }
}

// One or two blocks of 16 tokens, n of which count.
template <bool TWO>
__attribute__((noinline)) static void matrix_block(const uint8_t* codes, const uint8_t* tile, Activations x, int64_t n,
                                                   float* acc) {
    constexpr int64_t BLOCK = MATRIX_ROWS * INPUTS;
    alignas(64) int32_t sums[TWO ? 4 : 2][MATRIX_ROWS][STRIP];
    for (int64_t strip = 0; strip < STRIPS; strip += 2) {
        matrix_zero<0>();
        matrix_zero<1>();
        if (TWO) matrix_zero<2>();
        if (TWO) matrix_zero<3>();
        for (int64_t first = 0; first < INPUTS; first += MATRIX_LINE) {
            const uint8_t* weights = codes + strip * STRIP_BYTES + first * STRIP;
            matrix_load<6>(weights, LINE);
            matrix_load<4>(x.codes + first, INPUTS);
            matrix_dot<0, 4, 6>();
            matrix_load<7>(weights + STRIP_BYTES, LINE);
            matrix_dot<1, 4, 7>();
            if (TWO) {
                matrix_load<5>(x.codes + BLOCK + first, INPUTS);
                matrix_dot<2, 5, 6>();
                matrix_dot<3, 5, 7>();
            }
        }
        matrix_store<0>(sums[0], LINE);
        matrix_store<1>(sums[1], LINE);
        if (TWO) matrix_store<2>(sums[2], LINE);
        if (TWO) matrix_store<3>(sums[3], LINE);
        for (int64_t s = 0; s < 2; s++) {
            const F32 scale = row_scales(tile, (strip + s) * STRIP);
            float* at = acc + (strip + s) * STRIP;
            add_matrix_sums(sums[s], TWO ? MATRIX_ROWS : n, scale, x, at);
            if (TWO)
                add_matrix_sums(sums[2 + s], n - MATRIX_ROWS, scale, x.from(MATRIX_ROWS), at + MATRIX_ROWS * ROWS);
        }
    }
}

// acc [n][64] += (codes that went through exact_weights) . activations, times both scales. Returns how many of the
// tokens it took: the others are few. This thread needs a MatrixUnit.
static inline int64_t matrix_product(const uint8_t* codes, const uint8_t* tile, Activations x, int64_t n, float* acc,
                                     Ahead* ahead, int lines_a_token) {
    const int64_t rest = n % MATRIX_ROWS;
    if (rest <= FEW_FOR_MATRIX) n -= rest;
    for (int64_t t = 0; t < n;) {
        const int64_t here = n - t < 2 * MATRIX_ROWS ? n - t : 2 * MATRIX_ROWS;
        ahead->lines(int(here) * lines_a_token);
        if (here > MATRIX_ROWS) matrix_block<true>(codes, tile, x.from(t), here, acc + t * ROWS);
        else matrix_block<false>(codes, tile, x.from(t), here, acc + t * ROWS);
        t += here;
    }
    return n;
}

#else

constexpr bool HAS_MATRIX_UNIT = false;
constexpr int64_t SPARE_TOKENS = 0;

struct MatrixUnit {
    explicit MatrixUnit(bool) {}
};
static inline int64_t matrix_product(const uint8_t*, const uint8_t*, Activations, int64_t, float*, Ahead*, int) {
    return 0;
}

#endif

}  // namespace octuor::OCTUOR_ISA
