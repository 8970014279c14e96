// The vector interface on AVX2, FMA and F16C, with AVX-VNNI's dot products where the build has them.
// vec_scalar.h says what each function means.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "halves.h"

namespace octuor::OCTUOR_ISA {

constexpr int W = 8;
#ifdef __AVXVNNI__
constexpr bool UNPACKS_TILES = true;
constexpr int TILE_VECTORS = 2, TILE_TOKENS = 6;  // 12 sums, to hide the latency of vpdpbusd
#else
constexpr bool UNPACKS_TILES = false;  // 2.25 instructions a quad with opened groups against 4 for exact products
constexpr int TILE_VECTORS = 2, TILE_TOKENS = 4;
#endif
constexpr bool OPENS_TILES = !UNPACKS_TILES;
constexpr int OPEN_TILE_TOKENS = 4, OPEN_TILE_VECTORS = 2;
constexpr int GROUPS_UNROLLED = 1;     // unrolled, gcc 12 hoists and spills until half of the work is moves
constexpr int ROWS_AT_ONCE = 4, TOKENS_AT_ONCE = 2;
constexpr int QUADS_AT_ONCE = 1;
constexpr int BLOCK_TOKENS = 4;

using F32 = __m256;
using I32 = __m256i;

static inline F32 set1(float x) { return _mm256_set1_ps(x); }
static inline I32 set1_i(int32_t x) { return _mm256_set1_epi32(x); }

static inline F32 widen(__m128i f16s, f16) { return _mm256_cvtph_ps(f16s); }
static inline F32 widen(__m128i bf16s, bf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16s), 16));
}
static inline float widen(float x) { return x; }
static inline float widen(f16 x) { return _cvtsh_ss(x.bits); }
static inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float r;
    memcpy(&r, &bits, 4);
    return r;
}

static inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline F32 load(const float* p) { return _mm256_loadu_ps(p); }
static inline F32 load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
template <class T>
static inline F32 load(const T* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T());
}
template <class T>
static inline F32 load_n(const T* p, int64_t n) {
    T part[W] = {};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
static inline F32 load_u8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline F32 pick(const float* table, const uint8_t* codes) {
    const I32 places = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    const F32 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), places);
    const F32 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), places);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(places, 28)));
}
static inline F32 load_i8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
static inline void store_n(float* p, F32 x, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
static inline void store(f16* p, F32 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void store_n(f16* p, F32 x, int64_t n) {
    f16 part[W];
    store(part, x);
    for (int64_t i = 0; i < n; i++) p[i] = part[i];
}

static inline F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
static inline F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
static inline F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
static inline F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
static inline F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
static inline F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
static inline F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
static inline F32 fnma(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }
static inline F32 round(F32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline F32 zero_below(F32 y, F32 x, float limit) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, set1(limit), _CMP_LT_OQ), y);
}
static inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline F32 power_of_2(F32 n) {
    I32 biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), set1_i(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static inline float sum(F32 x) {
    const F32 pairs = _mm256_add_ps(x, _mm256_movehdup_ps(x));
    const F32 all = _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0x4e));
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
static inline void store_sums(float* p, F32 a, F32 b, F32 c, F32 d) {
    const F32 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}
static inline float largest(F32 x) {
    __m128 r = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_max_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}
static inline F32 to_f32(I32 x) { return _mm256_cvtepi32_ps(x); }
static inline I32 max_magnitude(I32 m, F32 x) {
    return _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(x), set1_i(0x7fffffff)));
}
static inline int32_t largest_i(I32 x) {
    __m128i r = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
    return _mm_cvtsi128_si32(r);
}
static inline void store_i8(int8_t* p, F32 x) {
    I32 n = _mm256_cvtps_epi32(x);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
static inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

static inline I32 load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
static inline void store_i(void* p, I32 x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
static inline I32 shift_lanes(I32 x, int n) { return n < 0 ? _mm256_srli_epi32(x, -n) : _mm256_slli_epi32(x, n); }
static inline I32 lane_bits(I32 x, int32_t mask) { return _mm256_and_si256(x, set1_i(mask)); }
static inline I32 either(I32 a, I32 b) { return _mm256_or_si256(a, b); }
static inline F32 rounded(F32 x, float) { return x; }
static inline F32 rounded(F32 x, f16) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline F32 rounded(F32 x, bf16) {
    const I32 bits = _mm256_castps_si256(x), odd = lane_bits(_mm256_srli_epi32(bits, 16), 1);
    const I32 sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, set1_i(0x7fff)));
    return _mm256_castsi256_ps(lane_bits(sum, int32_t(0xffff0000)));
}
static inline void transpose(const int32_t* from, int64_t from_stride, int32_t* to, int64_t to_stride) {
    I32 twos[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        const I32 a = load_i(from + i * from_stride), b = load_i(from + (i + 1) * from_stride);
        twos[i] = _mm256_unpacklo_epi32(a, b), twos[i + 1] = _mm256_unpackhi_epi32(a, b);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_unpacklo_epi64(twos[i + j], twos[i + j + 2]);
            fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(twos[i + j], twos[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        store_i(to + j * to_stride, _mm256_permute2x128_si256(fours[j], fours[j + 4], 0x20));
        store_i(to + (j + 4) * to_stride, _mm256_permute2x128_si256(fours[j], fours[j + 4], 0x31));
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
static inline I32 shift(I32 x, int n) { return n < 0 ? _mm256_srli_epi16(x, -n) : _mm256_slli_epi16(x, n); }
static inline I32 bits(I32 x, int mask) { return _mm256_and_si256(x, set1_i(int32_t(uint32_t(mask) * 0x01010101u))); }
static inline I32 high_bits(I32 x, int mask) { return bits(shift(x, -4), mask); }
static inline I32 choose_bits(I32 a, I32 b, int mask) {
    const I32 masks = set1_i(int32_t(uint32_t(mask) * 0x01010101u));
    return _mm256_or_si256(_mm256_and_si256(masks, a), _mm256_andnot_si256(masks, b));
}
static inline I32 load_table(const void* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
static inline I32 lookup(I32 table, I32 places) { return _mm256_shuffle_epi8(table, bits(places, 15)); }
static inline I32 lookup_high(I32 table, I32 places) { return lookup(table, shift(places, -4)); }

// Which of W rows from first_row on have their bit set, of one bit for each of 16 rows.
static inline I32 rows_set(const uint16_t* bits, int first_row) {
    const I32 first = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const I32 row = first_row ? _mm256_slli_epi32(first, 8) : first;
    return _mm256_cmpeq_epi32(_mm256_and_si256(set1_i(*bits), row), row);
}

#ifdef __AVXVNNI__

// Assembly, because gcc 12 copies the accumulator before and after these intrinsics.
static inline I32 dot_u8_i8(I32 acc, I32 unsigned_bytes, I32 signed_bytes) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(unsigned_bytes), "x"(signed_bytes));
    return acc;
}
static inline I32 dot_i16(I32 acc, I32 a, I32 b) {
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
    return acc;
}

// As in vec_avx512.h with VNNI.
static inline int32_t group_start(int32_t first, int32_t second) { return first + second; }
static inline I32 start_times(I32 start, int n) { return _mm256_slli_epi32(start, n); }
static inline I32 group_dot(I32 sum, I32 codes, I32 activations) { return dot_u8_i8(sum, codes, activations); }
template <bool WIDE>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) {
    return WIDE ? _mm256_add_epi32(acc, _mm256_mullo_epi32(sum, scale)) : dot_i16(acc, sum, scale);
}
template <bool WIDE>
constexpr int32_t NEGATIVE = WIDE ? -16 : 0xfff0;
constexpr int32_t NIBBLE = 0xf;

static inline int32_t exact_start(int32_t activations) { return -128 * activations; }
static inline I32 exact_weights(I32 stored) { return _mm256_xor_si256(stored, set1_i(int32_t(0x80808080))); }
static inline I32 exact_dot(I32 sum, I32 weights, I32 activations) { return dot_u8_i8(sum, weights, activations); }

#else

// A group's sum is kept as two int16 a lane, of inputs 0 1 and 2 3 of each quad. Each has its own part of the start, so
// it ends as a sum of 8 products (code - offset) * activation, within 8 * 32 * 127 = 32512; on the way it may wrap.
// Assembly, because gcc 12 puts off a chain of additions and spills all that is to be added.
static inline I32 add_i16(I32 a, I32 b) {
    __asm__("vpaddw %1, %0, %0" : "+x"(a) : "x"(b));
    return a;
}
static inline int32_t group_start(int32_t first, int32_t second) {
    return int32_t(uint32_t(first & 0xffff) | uint32_t(second) << 16);
}
static inline I32 start_times(I32 start, int n) { return _mm256_slli_epi16(start, n); }
static inline I32 group_dot(I32 sum, I32 codes, I32 activations) {
    return add_i16(sum, _mm256_maddubs_epi16(codes, activations));
}
template <bool>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(sum, scale));
}
template <bool>
constexpr int32_t NEGATIVE = int32_t(0xfff0fff0);
constexpr int32_t NIBBLE = 0xf000f;

// The inputs 0 1, or 2 3, of two groups' quads in one lane. The sum of a group's 16 products (code - offset) * activation
// fits 16 bits; what it passes on the way there may wrap.
struct GroupPairs {
    static I32 low(I32 a, I32 b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa); }
    static I32 high(I32 a, I32 b) { return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xaa); }
};

static inline int32_t exact_start(int32_t) { return 0; }
static inline I32 exact_weights(I32 stored) { return stored; }
// Magnitudes times activations that took the weights' signs: 2 * 127 * 127 fits 16 bits.
static inline I32 exact_dot(I32 sum, I32 weights, I32 activations) {
    I32 pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#endif

struct GroupScales {
    I32 nibbles;
    GroupScales() = default;
    GroupScales(const void* words, int part) : nibbles(load_i(words)) {
#ifdef __AVXVNNI__
        if (part) nibbles = _mm256_srli_epi32(nibbles, 16);
#else  // in both halves of a lane
        if (part) nibbles = _mm256_blend_epi16(nibbles, _mm256_srli_epi32(nibbles, 16), 0x55);
        else nibbles = _mm256_blend_epi16(nibbles, _mm256_slli_epi32(nibbles, 16), 0xaa);
#endif
    }
    I32 next_nibbles() {
        const I32 lowest = _mm256_and_si256(nibbles, set1_i(NIBBLE));
        nibbles = _mm256_srli_epi16(nibbles, 4);
        return lowest;
    }
    template <bool WIDE>
    I32 next(const uint16_t* signs, int first_row) {
        const I32 negative = _mm256_and_si256(rows_set(signs, first_row), set1_i(NEGATIVE<WIDE>));
        return _mm256_or_si256(next_nibbles(), negative);
    }
};

#ifdef __AVXVNNI__

// As in vec_avx512.h.
template <int OFFSET, int LARGEST>
struct ByteScale {
    I32 below_0, size, offset;
    ByteScale(GroupScales& scales, const uint16_t* signs, int first_row) : below_0(rows_set(signs, first_row)) {
        const I32 magnitude = _mm256_abs_epi32(_mm256_or_si256(scales.next_nibbles(), _mm256_slli_epi32(below_0, 4)));
        const I32 each = _mm256_blendv_epi8(set1_i(OFFSET), set1_i(LARGEST - OFFSET), below_0);
        const I32 low_byte = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0));
        size = _mm256_or_si256(magnitude, _mm256_slli_epi32(magnitude, 16));
        offset = _mm256_sub_epi32(set1_i(128), _mm256_mullo_epi16(magnitude, each));
        offset = _mm256_shuffle_epi8(offset, low_byte);
    }
    I32 times(I32 codes) const {
        const I32 turned = _mm256_blendv_epi8(codes, _mm256_sub_epi8(set1_i(LARGEST * 0x01010101), codes), below_0);
        return _mm256_add_epi8(_mm256_mullo_epi16(turned, size), offset);
    }
};

#endif

}  // namespace octuor::OCTUOR_ISA
