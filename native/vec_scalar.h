// The vector interface as plain loops: the definition that vec_avx2.h and vec_avx512.h follow.
//
// F32 and I32 are W lanes of 32 bits. An I32 also carries 4 bytes a lane: one row's codes of a quad of inputs.
// The integer dot products come in two kinds:
//   group_*  unsigned 4-bit codes in groups of 16 inputs, each group's sum then times a small scale
//   exact_*  int8 weights, 32-bit sums over a whole tile
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "halves.h"

namespace octuor::OCTUOR_ISA {

constexpr int W = 4;
constexpr bool UNPACKS_TILES = false;  // whether prompts gain from unpacking a tile of q4 to exact int8 first
constexpr bool OPENS_TILES = false;
constexpr int OPEN_TILE_TOKENS = 4, OPEN_TILE_VECTORS = 1;
constexpr int GROUPS_UNROLLED = 1;
constexpr int ROWS_AT_ONCE = 4, TOKENS_AT_ONCE = 2;  // register block of float products
constexpr int TILE_VECTORS = 2, TILE_TOKENS = 4;     // register block of exact products
constexpr int QUADS_AT_ONCE = 1;                     // quads of inputs that exact products load together
constexpr int BLOCK_TOKENS = 4;  // register block of products with blocks

struct F32 {
    float lane[W];
};
struct I32 {
    int32_t lane[W];
};

#define OCTUOR_LANES for (int i = 0; i < W; i++)

static inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float widen(float x) { return x; }
static inline float widen(bf16 x) { return float_of_bits(uint32_t(x.bits) << 16); }
static inline float widen(f16 x) {
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return float_of_bits(sign | ((rest << 13) + (112u << 23)));
    float tiny = float(rest) * 0x1p-24f;  // subnormal
    return sign ? -tiny : tiny;
}
static inline f16 to_f16(float x) {
    uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds to 65536 or above
    if (rest < 0x38800000) {                                   // subnormal: let float addition round it
        float shifted = float_of_bits(rest) + 0.5f;            // the last bit of 0.5f is worth 2^-24
        return {uint16_t(sign | (bits_of_float(shifted) - bits_of_float(0.5f)))};
    }
    uint32_t rounded = rest + 0xfff + (rest >> 13 & 1);
    return {uint16_t(sign | ((rounded - (112u << 23)) >> 13))};
}

static inline F32 set1(float x) {
    F32 r;
    OCTUOR_LANES r.lane[i] = x;
    return r;
}
static inline I32 set1_i(int32_t x) {
    I32 r;
    OCTUOR_LANES r.lane[i] = x;
    return r;
}
template <class T>
static inline F32 load(const T* p) {
    F32 r;
    OCTUOR_LANES r.lane[i] = widen(p[i]);
    return r;
}
template <class T>
static inline F32 load_n(const T* p, int64_t n) {
    F32 r;
    OCTUOR_LANES r.lane[i] = i < n ? widen(p[i]) : 0.0f;
    return r;
}
static inline F32 load_u8(const uint8_t* p) {
    F32 r;
    OCTUOR_LANES r.lane[i] = float(p[i]);
    return r;
}
// The number of each of W codes, by their low 4 bits, of a table of 16.
static inline F32 pick(const float* table, const uint8_t* codes) {
    F32 r;
    OCTUOR_LANES r.lane[i] = table[codes[i] & 15];
    return r;
}
static inline F32 load_i8(const int8_t* p) {
    F32 r;
    OCTUOR_LANES r.lane[i] = float(p[i]);
    return r;
}
static inline void store(float* p, F32 x) { OCTUOR_LANES p[i] = x.lane[i]; }
static inline void store(f16* p, F32 x) { OCTUOR_LANES p[i] = to_f16(x.lane[i]); }
static inline void store_n(float* p, F32 x, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = x.lane[i];
}
static inline void store_n(f16* p, F32 x, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = to_f16(x.lane[i]);
}

#define OCTUOR_BINARY(name, expression)         \
    static inline F32 name(F32 a, F32 b) {      \
        F32 r;                                  \
        OCTUOR_LANES {                          \
            float p = a.lane[i], q = b.lane[i]; \
            r.lane[i] = expression;             \
        }                                       \
        return r;                               \
    }
OCTUOR_BINARY(add, p + q)
OCTUOR_BINARY(sub, p - q)
OCTUOR_BINARY(mul, p* q)
OCTUOR_BINARY(div, p / q)
OCTUOR_BINARY(max, p > q ? p : q)
OCTUOR_BINARY(min, p < q ? p : q)
#undef OCTUOR_BINARY

// a * b + c
static inline F32 fma(F32 a, F32 b, F32 c) { return add(mul(a, b), c); }
// c - a * b
static inline F32 fnma(F32 a, F32 b, F32 c) { return sub(c, mul(a, b)); }
// To the nearest integer, ties to even.
static inline F32 round(F32 x) {
    F32 r;
    OCTUOR_LANES r.lane[i] = nearbyintf(x.lane[i]);
    return r;
}
// y, or 0 where x < limit
static inline F32 zero_below(F32 y, F32 x, float limit) {
    F32 r;
    OCTUOR_LANES r.lane[i] = x.lane[i] < limit ? 0.0f : y.lane[i];
    return r;
}
// yes where a < b, else no
static inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) {
    F32 r;
    OCTUOR_LANES r.lane[i] = a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i];
    return r;
}
// 2^n for whole n in -126..127
static inline F32 power_of_2(F32 n) {
    F32 r;
    OCTUOR_LANES r.lane[i] = float_of_bits(uint32_t(int32_t(n.lane[i]) + 127) << 23);
    return r;
}
static inline float sum(F32 x) { return (x.lane[0] + x.lane[1]) + (x.lane[2] + x.lane[3]); }
// The sums of four vectors, side by side, each to the bit what `sum` makes of it.
static inline void store_sums(float* p, F32 a, F32 b, F32 c, F32 d) {
    p[0] = sum(a), p[1] = sum(b), p[2] = sum(c), p[3] = sum(d);
}
static inline float largest(F32 x) {
    float r = x.lane[0];
    OCTUOR_LANES r = x.lane[i] > r ? x.lane[i] : r;
    return r;
}
static inline F32 to_f32(I32 x) {
    F32 r;
    OCTUOR_LANES r.lane[i] = float(x.lane[i]);
    return r;
}
// The larger of m and the magnitude bits of x; unlike max of floats, a NaN stays.
static inline I32 max_magnitude(I32 m, F32 x) {
    OCTUOR_LANES {
        int32_t bits = int32_t(bits_of_float(x.lane[i]) & 0x7fffffff);
        m.lane[i] = bits > m.lane[i] ? bits : m.lane[i];
    }
    return m;
}
static inline int32_t largest_i(I32 x) {
    int32_t r = x.lane[0];
    OCTUOR_LANES r = x.lane[i] > r ? x.lane[i] : r;
    return r;
}
// x rounded, ties to even, as W int8; x is in -127..127
static inline void store_i8(int8_t* p, F32 x) { OCTUOR_LANES p[i] = int8_t(nearbyintf(x.lane[i])); }

static inline void prefetch(const void* p) { __builtin_prefetch(p); }
// The same, but only as near as L2.
static inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

static inline I32 load_i(const void* p) {
    I32 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void store_i(void* p, I32 x) { memcpy(p, &x, sizeof x); }
// Every lane by n bits to the left, to the right where n < 0; and the bits of a mask in every lane.
static inline I32 shift_lanes(I32 x, int n) {
    OCTUOR_LANES x.lane[i] = int32_t(n < 0 ? uint32_t(x.lane[i]) >> -n : uint32_t(x.lane[i]) << n);
    return x;
}
static inline I32 lane_bits(I32 x, int32_t mask) {
    OCTUOR_LANES x.lane[i] &= mask;
    return x;
}
static inline I32 either(I32 a, I32 b) {
    OCTUOR_LANES a.lane[i] |= b.lane[i];
    return a;
}
// x rounded to what T keeps.
static inline F32 rounded(F32 x, float) { return x; }
static inline F32 rounded(F32 x, f16) {
    OCTUOR_LANES x.lane[i] = widen(to_f16(x.lane[i]));
    return x;
}
static inline F32 rounded(F32 x, bf16) {
    OCTUOR_LANES {
        const uint32_t bits = bits_of_float(x.lane[i]);
        x.lane[i] = float_of_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
    }
    return x;
}
// A square of W x W words of any type turned; strides in words.
static inline void transpose(const int32_t* from, int64_t from_stride, int32_t* to, int64_t to_stride) {
    for (int i = 0; i < W; i++)
        for (int j = 0; j < W; j++) memcpy(to + j * to_stride + i, from + i * from_stride + j, 4);
}
static inline I32 broadcast(const void* p) {
    int32_t x;
    memcpy(&x, p, 4);
    return set1_i(x);
}
// Inputs of a token, up to 16, and four of them in every lane.
using Inputs = const int8_t*;
using Quad = I32;
static inline Inputs load_inputs(const int8_t* p) { return p; }
static inline Quad quad_of(Inputs x, int quad) { return broadcast(x + 4 * quad); }
// Every byte by n bits to the left, to the right where n < 0; what crosses a byte's edge leaves anything there.
static inline I32 shift(I32 x, int n) {
    OCTUOR_LANES x.lane[i] = int32_t(n < 0 ? uint32_t(x.lane[i]) >> -n : uint32_t(x.lane[i]) << n);
    return x;
}
// The bits of a mask in every byte.
static inline I32 bits(I32 x, int mask) {
    OCTUOR_LANES x.lane[i] &= int32_t(uint32_t(mask) * 0x01010101u);
    return x;
}
// The same after a shift to the right by 4.
static inline I32 high_bits(I32 x, int mask) { return bits(shift(x, -4), mask); }
// Bits of a where the mask has them, of b elsewhere.
static inline I32 choose_bits(I32 a, I32 b, int mask) {
    const int32_t masks = int32_t(uint32_t(mask) * 0x01010101u);
    OCTUOR_LANES a.lane[i] = (a.lane[i] & masks) | (b.lane[i] & ~masks);
    return a;
}

// 16 bytes to look up.
static inline I32 load_table(const void* p) { return load_i(p); }
// The byte of a table for the low 4 bits of every byte of places.
static inline I32 lookup(I32 table, I32 places) {
    uint8_t from[16], at[16];
    memcpy(from, &table, 16);
    memcpy(at, &places, 16);
    for (int i = 0; i < 16; i++) at[i] = from[at[i] & 15];
    memcpy(&places, at, 16);
    return places;
}
// The same for the high 4 bits.
static inline I32 lookup_high(I32 table, I32 places) { return lookup(table, shift(places, -4)); }

static inline int32_t byte_u(int32_t x, int j) { return int32_t(uint32_t(x) >> (8 * j) & 0xff); }
static inline int32_t byte_s(int32_t x, int j) { return int8_t(uint32_t(x) >> (8 * j)); }

// What a group's sum starts from, as stored beside the activations: two values, for those of inputs 0 and 1 and those
// of inputs 2 and 3 of each quad.
static inline int32_t group_start(int32_t first, int32_t second) { return first + second; }
// Both values times 2^n.
static inline I32 start_times(I32 start, int n) {
    OCTUOR_LANES start.lane[i] *= 1 << n;
    return start;
}
// sum + codes . activations, four of each a lane
static inline I32 group_dot(I32 sum, I32 codes, I32 activations) {
    OCTUOR_LANES for (int j = 0; j < 4; j++) sum.lane[i] += byte_u(codes.lane[i], j) * byte_s(activations.lane[i], j);
    return sum;
}
// acc + sum * scale. WIDE: the sum may take 17 bits, otherwise 16.
template <bool WIDE>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) {
    OCTUOR_LANES acc.lane[i] += sum.lane[i] * scale.lane[i];
    return acc;
}
// The scales of 4 groups of W rows, one after the other, for group_add.
struct GroupScales {
    I32 nibbles;
    GroupScales() = default;
    // words: 8 nibbles a row, as stored; part: the lower four or the upper
    GroupScales(const void* words, int part) : nibbles(load_i(words)) {
        OCTUOR_LANES nibbles.lane[i] = int32_t(uint32_t(nibbles.lane[i]) >> (16 * part));
    }
    // signs: one bit for each of 16 rows; first_row: of this vector's rows in those 16; WIDE: as group_add has it
    template <bool WIDE>
    I32 next(const uint16_t* signs, int first_row) {
        I32 scale;
        OCTUOR_LANES {
            scale.lane[i] = (nibbles.lane[i] & 15) - 16 * (*signs >> (first_row + i) & 1);
            nibbles.lane[i] = int32_t(uint32_t(nibbles.lane[i]) >> 4);
        }
        return scale;
    }
};

// What exact sums start from, given the sum of the tile's activations.
static inline int32_t exact_start(int32_t) { return 0; }
static inline I32 exact_weights(I32 stored) { return stored; }
static inline I32 exact_dot(I32 sum, I32 weights, I32 activations) {
    OCTUOR_LANES for (int j = 0; j < 4; j++) sum.lane[i] += byte_s(weights.lane[i], j) * byte_s(activations.lane[i], j);
    return sum;
}

#undef OCTUOR_LANES

}  // namespace octuor::OCTUOR_ISA
