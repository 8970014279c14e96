// The vector interface on 64-bit Arm: NEON, with the dot products of Armv8.2 where the build has them.
// vec_scalar.h says what each function means.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "halves.h"

namespace octuor::OCTUOR_ISA {

constexpr int W = 4;
constexpr bool UNPACKS_TILES = true, OPENS_TILES = false;
constexpr int OPEN_TILE_TOKENS = 4, OPEN_TILE_VECTORS = 1;
constexpr int GROUPS_UNROLLED = 1;
constexpr int ROWS_AT_ONCE = 4, TOKENS_AT_ONCE = 4;
constexpr int TILE_VECTORS = 4, TILE_TOKENS = 4;
constexpr int QUADS_AT_ONCE = 4;
constexpr int BLOCK_TOKENS = 4;

using F32 = float32x4_t;
using I32 = int32x4_t;

static inline F32 set1(float x) { return vdupq_n_f32(x); }
static inline I32 set1_i(int32_t x) { return vdupq_n_s32(x); }

static inline F32 widen(uint16x4_t f16s, f16) { return vcvt_f32_f16(vreinterpret_f16_u16(f16s)); }
static inline F32 widen(uint16x4_t bf16s, bf16) { return vreinterpretq_f32_u32(vshll_n_u16(bf16s, 16)); }
static inline float widen(float x) { return x; }
template <class T>
static inline float widen(T x) {
    return vgetq_lane_f32(widen(vdup_n_u16(x.bits), T()), 0);
}

static inline F32 load(const float* p) { return vld1q_f32(p); }
static inline F32 load_n(const float* p, int64_t n) {
    F32 r = set1(0.0f);
    if (n > 0) r = vld1q_lane_f32(p, r, 0);
    if (n > 1) r = vld1q_lane_f32(p + 1, r, 1);
    if (n > 2) r = vld1q_lane_f32(p + 2, r, 2);
    if (n > 3) r = vld1q_lane_f32(p + 3, r, 3);
    return r;
}
template <class T>
static inline F32 load(const T* p) {
    return widen(vld1_u16(&p->bits), T());
}
template <class T>
static inline F32 load_n(const T* p, int64_t n) {
    uint16x4_t r = vdup_n_u16(0);
    if (n > 0) r = vld1_lane_u16(&p[0].bits, r, 0);
    if (n > 1) r = vld1_lane_u16(&p[1].bits, r, 1);
    if (n > 2) r = vld1_lane_u16(&p[2].bits, r, 2);
    if (n > 3) r = vld1_lane_u16(&p[3].bits, r, 3);
    return widen(r, T());
}
static inline F32 load_u8(const uint8_t* p) {
    uint32_t four;
    memcpy(&four, p, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))));
}
static inline F32 pick(const float* table, const uint8_t* codes) {
    const float four[4] = {table[codes[0] & 15], table[codes[1] & 15], table[codes[2] & 15], table[codes[3] & 15]};
    return vld1q_f32(four);
}
static inline F32 load_i8(const int8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
static inline void store(float* p, F32 x) { vst1q_f32(p, x); }
static inline void store_n(float* p, F32 x, int64_t n) {
    if (n > 0) vst1q_lane_f32(p, x, 0);
    if (n > 1) vst1q_lane_f32(p + 1, x, 1);
    if (n > 2) vst1q_lane_f32(p + 2, x, 2);
    if (n > 3) vst1q_lane_f32(p + 3, x, 3);
}
static inline uint16x4_t halves(F32 x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
static inline void store(f16* p, F32 x) { vst1_u16(&p->bits, halves(x)); }
static inline void store_n(f16* p, F32 x, int64_t n) {
    const uint16x4_t all = halves(x);
    if (n > 0) vst1_lane_u16(&p[0].bits, all, 0);
    if (n > 1) vst1_lane_u16(&p[1].bits, all, 1);
    if (n > 2) vst1_lane_u16(&p[2].bits, all, 2);
    if (n > 3) vst1_lane_u16(&p[3].bits, all, 3);
}

static inline F32 add(F32 a, F32 b) { return vaddq_f32(a, b); }
static inline F32 sub(F32 a, F32 b) { return vsubq_f32(a, b); }
static inline F32 mul(F32 a, F32 b) { return vmulq_f32(a, b); }
static inline F32 div(F32 a, F32 b) { return vdivq_f32(a, b); }
// As defined, a NaN in `a` leaves b. One in `b` leaves a, where the definition keeps the NaN.
static inline F32 max(F32 a, F32 b) { return vmaxnmq_f32(a, b); }
static inline F32 min(F32 a, F32 b) { return vminnmq_f32(a, b); }
static inline F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
static inline F32 fnma(F32 a, F32 b, F32 c) { return vfmsq_f32(c, a, b); }
static inline F32 round(F32 x) { return vrndnq_f32(x); }
static inline F32 zero_below(F32 y, F32 x, float limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, set1(limit))));
}
static inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
static inline F32 power_of_2(F32 n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), set1_i(127)), 23));
}
static inline float sum(F32 x) { return vaddvq_f32(x); }
static inline void store_sums(float* p, F32 a, F32 b, F32 c, F32 d) {
    store(p, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}
static inline float largest(F32 x) { return vmaxnmvq_f32(x); }
static inline F32 to_f32(I32 x) { return vcvtq_f32_s32(x); }
static inline I32 max_magnitude(I32 m, F32 x) { return vmaxq_s32(m, vreinterpretq_s32_f32(vabsq_f32(x))); }
static inline int32_t largest_i(I32 x) { return vmaxvq_s32(x); }
static inline void store_i8(int8_t* p, F32 x) {
    const int16x4_t words = vmovn_s32(vcvtnq_s32_f32(x));
    const int32x2_t bytes = vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words)));
    const int32_t all = vget_lane_s32(bytes, 0);
    memcpy(p, &all, 4);
}

static inline void prefetch(const void* p) { __builtin_prefetch(p); }
static inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

static inline I32 load_i(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
static inline void store_i(void* p, I32 x) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(x)); }
static inline I32 shift_lanes(I32 x, int n) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(n)));
}
static inline I32 lane_bits(I32 x, int32_t mask) { return vandq_s32(x, set1_i(mask)); }
static inline I32 either(I32 a, I32 b) { return vorrq_s32(a, b); }
static inline F32 rounded(F32 x, float) { return x; }
static inline F32 rounded(F32 x, f16) { return vcvt_f32_f16(vcvt_f16_f32(x)); }
static inline F32 rounded(F32 x, bf16) {
    const I32 bits = vreinterpretq_s32_f32(x), odd = lane_bits(shift_lanes(bits, -16), 1);
    const I32 sum = vaddq_s32(bits, vaddq_s32(odd, set1_i(0x7fff)));
    return vreinterpretq_f32_s32(lane_bits(sum, int32_t(0xffff0000)));
}
static inline void transpose(const int32_t* from, int64_t from_stride, int32_t* to, int64_t to_stride) {
    const int32x4x2_t low = vzipq_s32(load_i(from), load_i(from + 2 * from_stride));
    const int32x4x2_t high = vzipq_s32(load_i(from + from_stride), load_i(from + 3 * from_stride));
    const int32x4x2_t first = vzipq_s32(low.val[0], high.val[0]), last = vzipq_s32(low.val[1], high.val[1]);
    store_i(to, first.val[0]), store_i(to + to_stride, first.val[1]);
    store_i(to + 2 * to_stride, last.val[0]), store_i(to + 3 * to_stride, last.val[1]);
}
static inline I32 broadcast(const void* p) { return vld1q_dup_s32(static_cast<const int32_t*>(p)); }
static inline int8x16_t as_bytes(I32 x) { return vreinterpretq_s8_s32(x); }
static inline uint8x16_t as_u8(I32 x) { return vreinterpretq_u8_s32(x); }
static inline I32 from_u8(uint8x16_t x) { return vreinterpretq_s32_u8(x); }
static inline I32 shift(I32 x, int n) { return from_u8(n < 0 ? as_u8(x) >> -n : as_u8(x) << n); }
static inline I32 bits(I32 x, int mask) { return from_u8(vandq_u8(as_u8(x), vdupq_n_u8(uint8_t(mask)))); }
static inline I32 high_bits(I32 x, int mask) { return mask == 15 ? shift(x, -4) : bits(shift(x, -4), mask); }
static inline I32 choose_bits(I32 a, I32 b, int mask) {
    return from_u8(vbslq_u8(vdupq_n_u8(uint8_t(mask)), as_u8(a), as_u8(b)));
}
static inline I32 load_table(const void* p) { return load_i(p); }
static inline I32 lookup_nibbles(I32 table, I32 places) { return from_u8(vqtbl1q_u8(as_u8(table), as_u8(places))); }
static inline I32 lookup(I32 table, I32 places) { return lookup_nibbles(table, bits(places, 15)); }
static inline I32 lookup_high(I32 table, I32 places) { return lookup_nibbles(table, high_bits(places, 15)); }

using Inputs = int8x16_t;
static inline Inputs load_inputs(const int8_t* p) { return vld1q_s8(p); }

#ifdef __ARM_FEATURE_DOTPROD

// Never spread over the lanes: the products name a quad of the 16.
struct Quad {
    int8x16_t all;
    int at;
};
static inline Quad quad_of(Inputs x, int quad) { return {x, quad}; }
// sum + a . b, signed bytes, four of each a lane. Which quad is known once the loop around it is unrolled.
static inline I32 dot(I32 sum, I32 a, Quad b) {
    switch (b.at) {
        case 0: return vdotq_laneq_s32(sum, as_bytes(a), b.all, 0);
        case 1: return vdotq_laneq_s32(sum, as_bytes(a), b.all, 1);
        case 2: return vdotq_laneq_s32(sum, as_bytes(a), b.all, 2);
        default: return vdotq_laneq_s32(sum, as_bytes(a), b.all, 3);
    }
}

#else

using Quad = int8x16_t;
static inline Quad quad_of(Inputs x, int quad) {
    return vreinterpretq_s8_s32(vdupq_n_s32(vreinterpretq_s32_s8(x)[quad]));
}
// Two products of bytes in -127..127 fit 16 bits.
static inline I32 dot(I32 sum, I32 a, Quad b) {
    const int16x8_t low = vmull_s8(vget_low_s8(as_bytes(a)), vget_low_s8(b));
    const int16x8_t high = vmull_high_s8(as_bytes(a), b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#endif

// Codes fit signed bytes, so the unsigned dot product is the signed one.
static inline int32_t group_start(int32_t first, int32_t second) { return first + second; }
static inline I32 start_times(I32 start, int n) { return start << n; }
static inline I32 group_dot(I32 sum, I32 codes, Quad activations) { return dot(sum, codes, activations); }
template <bool>
static inline I32 group_add(I32 acc, I32 sum, I32 scale) { return vmlaq_s32(acc, sum, scale); }

struct GroupScales {
    I32 nibbles;
    GroupScales() = default;
    GroupScales(const void* words, int part) : nibbles(load_i(words)) {
        if (part) nibbles = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(nibbles), 16));
    }
    template <bool>
    I32 next(const uint16_t* signs, int first_row) {
        const int32_t bits[W] = {1, 2, 4, 8};
        const I32 row = vshlq_s32(vld1q_s32(bits), set1_i(first_row));
        const uint32x4_t negative = vtstq_s32(vreinterpretq_s32_u16(vld1q_dup_u16(signs)), row);
        const I32 scale = vsliq_n_s32(nibbles, vreinterpretq_s32_u32(negative), 4);  // keeps the low four bits
        nibbles = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(nibbles), 4));
        return scale;
    }
};

static inline int32_t exact_start(int32_t) { return 0; }
static inline I32 exact_weights(I32 stored) { return stored; }
static inline I32 exact_dot(I32 sum, I32 weights, Quad activations) { return dot(sum, weights, activations); }

// A group's scale, made for multiplying its codes: (code - OFFSET) * scale as a byte, exact modulo 256.
template <int OFFSET, int>
struct ByteScale {
    int8x16_t size, offset;
    ByteScale(GroupScales& scales, const uint16_t* signs, int first_row) {
        const uint8_t low_byte[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};  // of each lane, four times
        size = vqtbl1q_s8(as_bytes(scales.next<false>(signs, first_row)), vld1q_u8(low_byte));
        offset = vmulq_s8(size, vdupq_n_s8(-OFFSET));
    }
    I32 times(I32 codes) const { return vreinterpretq_s32_s8(vmlaq_s8(offset, as_bytes(codes), size)); }
};

}  // namespace octuor::OCTUOR_ISA
