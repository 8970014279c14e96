// The vector interface on AVX-512 F, BW, DQ and VL, with VNNI's dot products where the build has them.
// vec_scalar.h says what each function means.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "halves.h"

namespace octuor::OCTUOR_ISA {

constexpr int W = 16;
#ifdef __AVX512VNNI__
constexpr bool UNPACKS_TILES = true;
#else
constexpr bool UNPACKS_TILES = false;
#endif
constexpr bool OPENS_TILES = !UNPACKS_TILES;
constexpr int OPEN_TILE_TOKENS = 4, OPEN_TILE_VECTORS = 2;
constexpr int GROUPS_UNROLLED = 4;
constexpr int ROWS_AT_ONCE = 4, TOKENS_AT_ONCE = 4;
constexpr int TILE_VECTORS = 4, TILE_TOKENS = 4;
constexpr int QUADS_AT_ONCE = 1;
constexpr int BLOCK_TOKENS = 6;

using F32 = __m512;
using I32 = __m512i;

static inline F32 set1(float x) { return _mm512_set1_ps(x); }
static inline I32 set1_i(int32_t x) { return _mm512_set1_epi32(x); }

static inline F32 widen(__m256i f16s, f16) { return _mm512_cvtph_ps(f16s); }
static inline F32 widen(__m256i bf16s, bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16s), 16));
}
static inline float widen(float x) { return x; }
static inline float widen(f16 x) { return _mm512_cvtss_f32(widen(_mm256_set1_epi16(int16_t(x.bits)), f16())); }
static inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float r;
    memcpy(&r, &bits, 4);
    return r;
}

static inline __mmask16 first_lanes(int64_t n) { return __mmask16((1u << n) - 1); }
static inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
static inline F32 load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
template <class T>
static inline F32 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T());
}
template <class T>
static inline F32 load_n(const T* p, int64_t n) {
    return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p), T());
}
static inline F32 load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline F32 pick(const float* table, const uint8_t* codes) {
    const I32 places = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return _mm512_permutexvar_ps(places, _mm512_loadu_ps(table));
}
static inline F32 load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
static inline void store_n(float* p, F32 x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
static inline __m256i halves(F32 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline void store(f16* p, F32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves(x)); }
static inline void store_n(f16* p, F32 x, int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), halves(x)); }

static inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
static inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
static inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
static inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
static inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
static inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
static inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline F32 fnma(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }
static inline F32 round(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline F32 zero_below(F32 y, F32 x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(limit), _CMP_NLT_UQ), y);
}
static inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
static inline F32 power_of_2(F32 n) {
    I32 biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), set1_i(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
static inline float sum(F32 x) {
    const F32 pairs = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    const F32 all = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
static inline void store_sums(float* p, F32 a, F32 b, F32 c, F32 d) {
    const F32 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const F32 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const F32 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
static inline float largest(F32 x) { return _mm512_reduce_max_ps(x); }
static inline F32 to_f32(I32 x) { return _mm512_cvtepi32_ps(x); }
static inline I32 max_magnitude(I32 m, F32 x) {
    return _mm512_max_epi32(m, _mm512_and_si512(_mm512_castps_si512(x), set1_i(0x7fffffff)));
}
static inline int32_t largest_i(I32 x) { return _mm512_reduce_max_epi32(x); }
static inline void store_i8(int8_t* p, F32 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}

static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
static inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

static inline I32 load_i(const void* p) { return _mm512_loadu_si512(p); }
static inline void store_i(void* p, I32 x) { _mm512_storeu_si512(p, x); }
static inline I32 shift_lanes(I32 x, int n) {
    return n < 0 ? _mm512_srli_epi32(x, unsigned(-n)) : _mm512_slli_epi32(x, unsigned(n));
}
static inline I32 lane_bits(I32 x, int32_t mask) { return _mm512_and_si512(x, set1_i(mask)); }
static inline I32 either(I32 a, I32 b) { return _mm512_or_si512(a, b); }
static inline F32 rounded(F32 x, float) { return x; }
static inline F32 rounded(F32 x, f16) { return _mm512_cvtph_ps(halves(x)); }
static inline F32 rounded(F32 x, bf16) {
    const I32 bits = _mm512_castps_si512(x), odd = lane_bits(_mm512_srli_epi32(bits, 16), 1);
    const I32 sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, set1_i(0x7fff)));
    return _mm512_castsi512_ps(lane_bits(sum, int32_t(0xffff0000)));
}
static inline void transpose(const int32_t* from, int64_t from_stride, int32_t* to, int64_t to_stride) {
    I32 twos[16], fours[16];  // fours[4 i + j]: column j of each 128 bits, rows 4 i to 4 i + 3
    for (int i = 0; i < 16; i += 2) {
        const I32 a = load_i(from + i * from_stride), b = load_i(from + (i + 1) * from_stride);
        twos[i] = _mm512_unpacklo_epi32(a, b), twos[i + 1] = _mm512_unpackhi_epi32(a, b);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(twos[i + j], twos[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(twos[i + j], twos[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        const I32 even_low = _mm512_shuffle_i32x4(fours[j], fours[j + 4], 0x88);
        const I32 odd_low = _mm512_shuffle_i32x4(fours[j], fours[j + 4], 0xdd);
        const I32 even_high = _mm512_shuffle_i32x4(fours[j + 8], fours[j + 12], 0x88);
        const I32 odd_high = _mm512_shuffle_i32x4(fours[j + 8], fours[j + 12], 0xdd);
        store_i(to + j * to_stride, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
        store_i(to + (j + 4) * to_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
        store_i(to + (j + 8) * to_stride, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
        store_i(to + (j + 12) * to_stride, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
    }
}
static inline I32 broadcast(const void* p) {
    int32_t x;
    memcpy(&x, p, 4);
    return set1_i(x);
}
using Inputs = const int8_t*;
using Quad = I32;
static inline Inputs load_inputs(const int8_t* p) { return p; }
static inline Quad quad_of(Inputs x, int quad) { return broadcast(x + 4 * quad); }
static inline I32 shift(I32 x, int n) {
    return n < 0 ? _mm512_srli_epi16(x, unsigned(-n)) : _mm512_slli_epi16(x, unsigned(n));
}
static inline I32 bits(I32 x, int mask) { return _mm512_and_si512(x, set1_i(int32_t(uint32_t(mask) * 0x01010101u))); }
static inline I32 high_bits(I32 x, int mask) { return bits(shift(x, -4), mask); }
static inline I32 choose_bits(I32 a, I32 b, int mask) {
    return _mm512_ternarylogic_epi32(a, b, set1_i(int32_t(uint32_t(mask) * 0x01010101u)), 0xe4);
}
static inline I32 load_table(const void* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
#ifdef __AVX512VBMI__  // sees the lowest 6 bits, and the table is there four times
static inline I32 lookup(I32 table, I32 places) { return _mm512_permutexvar_epi8(places, table); }
#else
static inline I32 lookup(I32 table, I32 places) { return _mm512_shuffle_epi8(table, bits(places, 15)); }
#endif
static inline I32 lookup_high(I32 table, I32 places) { return lookup(table, shift(places, -4)); }

#ifdef __AVX512VNNI__

// Assembly, because gcc 12 copies the accumulator before and after every one of these intrinsics (77 instructions
// for 16 products); it is free to move these about like any other expression.
static inline I32 dot_u8_i8(I32 acc, I32 unsigned_bytes, I32 signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes));
    return acc;
}
static inline I32 dot_i16(I32 acc, I32 a, I32 b) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}

static inline int32_t group_start(int32_t first, int32_t second) { return first + second; }
static inline I32 start_times(I32 start, int n) { return _mm512_slli_epi32(start, unsigned(n)); }
static inline I32 group_dot(I32 sum, I32 codes, I32 activations) { return dot_u8_i8(sum, codes, activations); }
// Up to 5 bits, the sum of 16 products (code - offset) * activation fits 16; the scale is zero in the upper half then.
template <bool WIDE>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) {
    return WIDE ? _mm512_add_epi32(acc, _mm512_mullo_epi32(sum, scale)) : dot_i16(acc, sum, scale);
}
template <bool WIDE>
constexpr int32_t NEGATIVE = WIDE ? -16 : 0xfff0;
constexpr int32_t NIBBLE = 0xf;

// Weights are stored signed and multiplied unsigned: 128 more each.
static inline int32_t exact_start(int32_t activations) { return -128 * activations; }
static inline I32 exact_weights(I32 stored) { return _mm512_xor_si512(stored, set1_i(int32_t(0x80808080))); }
static inline I32 exact_dot(I32 sum, I32 weights, I32 activations) { return dot_u8_i8(sum, weights, activations); }

#else  // as in vec_avx2.h

// Assembly, because gcc 12 puts off a chain of additions and spills all that is to be added.
static inline I32 add_i16(I32 a, I32 b) {
    __asm__("vpaddw %1, %0, %0" : "+v"(a) : "v"(b));
    return a;
}
static inline int32_t group_start(int32_t first, int32_t second) {
    return int32_t(uint32_t(first & 0xffff) | uint32_t(second) << 16);
}
static inline I32 start_times(I32 start, int n) { return _mm512_slli_epi16(start, unsigned(n)); }
static inline I32 group_dot(I32 sum, I32 codes, I32 activations) {
    return add_i16(sum, _mm512_maddubs_epi16(codes, activations));
}
template <bool>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(sum, scale));
}
template <bool>
constexpr int32_t NEGATIVE = int32_t(0xfff0fff0);
constexpr int32_t NIBBLE = 0xf000f;

struct GroupPairs {
    static I32 low(I32 a, I32 b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)); }
    static I32 high(I32 a, I32 b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b); }
};

static inline int32_t exact_start(int32_t) { return 0; }
static inline I32 exact_weights(I32 stored) { return stored; }
static inline I32 exact_dot(I32 sum, I32 weights, I32 activations) {
    I32 turned = _mm512_mask_sub_epi8(activations, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), activations);
    I32 pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#endif

struct GroupScales {
    I32 nibbles;
    GroupScales() = default;
    GroupScales(const void* words, int part) : nibbles(load_i(words)) {
#ifdef __AVX512VNNI__
        if (part) nibbles = _mm512_srli_epi32(nibbles, 16);
#else  // in both halves of a lane
        if (part) nibbles = _mm512_mask_blend_epi16(0x55555555, nibbles, _mm512_srli_epi32(nibbles, 16));
        else nibbles = _mm512_mask_blend_epi16(0xaaaaaaaa, nibbles, _mm512_slli_epi32(nibbles, 16));
#endif
    }
    I32 next_nibbles() {
        const I32 lowest = _mm512_and_si512(nibbles, set1_i(NIBBLE));
        nibbles = _mm512_srli_epi16(nibbles, 4);
        return lowest;
    }
    template <bool WIDE>
    I32 next(const uint16_t* signs, int) {
        const I32 nibble = next_nibbles();
        return _mm512_mask_or_epi32(nibble, __mmask16(*signs), nibble, set1_i(NEGATIVE<WIDE>));
    }
};

#ifdef __AVX512VNNI__

// A group's scale, made for multiplying its codes: (code - OFFSET) * scale + 128 as a byte, for codes of 0..LARGEST. A
// negative scale turns the code over, -(code - OFFSET) = (LARGEST - code) - (LARGEST - OFFSET), so that products fit a
// byte and one 16-bit multiplication makes two.
template <int OFFSET, int LARGEST>
struct ByteScale {
    __mmask16 below_0;
    I32 size, offset;
    ByteScale(GroupScales& scales, const uint16_t* signs, int) : below_0(*signs) {
        const I32 nibbles = scales.next_nibbles();
        const I32 magnitude = _mm512_mask_sub_epi32(nibbles, below_0, set1_i(16), nibbles);
        const I32 low_byte = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);  // of each lane, four times
        size = _mm512_or_si512(magnitude, _mm512_slli_epi32(magnitude, 16));
        const I32 each = _mm512_mask_mov_epi32(set1_i(OFFSET), below_0, set1_i(LARGEST - OFFSET));
        offset = _mm512_sub_epi32(set1_i(128), _mm512_mullo_epi16(magnitude, each));
        offset = _mm512_shuffle_epi8(offset, low_byte);
    }
    I32 times(I32 codes) const {
        const I32 turned = _mm512_mask_sub_epi32(codes, below_0, set1_i(LARGEST * 0x01010101), codes);
        return _mm512_add_epi8(_mm512_mullo_epi16(turned, size), offset);
    }
};

#endif

#ifdef __AVX512BF16__

// Two bfloat16 a lane, for kernels_attention_blocks.h; `Single` there is the same interface with one float a lane.
struct Pairs {
    static constexpr int STEP = 2;
    using Vector = I32;
    static Vector load(const float* p) { return load_i(p); }
    static Vector broadcast(const float* p) { return octuor::OCTUOR_ISA::broadcast(p); }
    static void store(float* p, Vector x) { store_i(p, x); }
    static Vector ones() { return set1_i(0x3f803f80); }
    // Assembly for the same reason as dot_u8_i8.
    static F32 fma(Vector a, Vector b, F32 sum) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    // 32 numbers in a row.
    static Vector along(F32 first, F32 second) { return reinterpret_cast<I32>(_mm512_cvtne2ps_pbh(second, first)); }
    // The numbers of two rows side by side in each lane.
    static Vector across(F32 even, F32 odd) {
        const I32 mixed = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        return _mm512_permutexvar_epi16(mixed, along(even, odd));
    }
    // 2^x, 0 below -127 or so: off by 8e-5 at most, a fiftieth of what rounding to bfloat16 costs.
    static F32 exp2(F32 x) {
        const F32 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // x less the nearest whole
        F32 p = octuor::OCTUOR_ISA::fma(r, set1(0.0551716685f), set1(0.2426111251f));
        p = octuor::OCTUOR_ISA::fma(p, r, set1(0.6932609677f));
        p = octuor::OCTUOR_ISA::fma(p, r, set1(0.9999280572f));
        return _mm512_scalef_ps(p, sub(x, r));
    }
};

#endif

}  // namespace octuor::OCTUOR_ISA
