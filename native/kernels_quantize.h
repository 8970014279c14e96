// Plain weights to q8 and q4. The same search as quant/int8_exact.py, with every sub-scale tried.
#pragma once

namespace octuor::OCTUOR_ISA {

static inline uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
// The least bfloat16 at or above x >= 0, so that the largest weight is never clipped.
static inline bf16 bf16_above(float x) { return {uint16_t((float_bits(x) + 0xffff) >> 16)}; }
static inline bf16 bf16_nearest(float x) {
    const uint32_t bits = float_bits(x);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
// 1 / x, and 0 where that would overflow.
static inline float reciprocal(float x) {
    const float inverse = 1.0f / x;
    return inverse <= 3.402823466e38f && inverse >= -3.402823466e38f ? inverse : 0.0f;
}

constexpr int32_t INFINITE = 0x7f800000;  // as bits of a float; those of a NaN are larger

// One row of one tile: 256 weights, zeros beyond the matrix.
struct TileRow {
    const float* weights;  // [256]
    float d;
    int8_t scales[GROUPS];
    int8_t codes[INPUTS];
};

// A row's 256 weights by their place in a group: element i * 16 + g is weight i of group g. So a vector holds
// one place of W groups, each lane searches for its own group, and no sum runs across lanes.
struct Places {
    alignas(64) float weights[INPUTS];
    alignas(64) float codes[INPUTS];
    alignas(64) float ideals[GROUPS];
    alignas(64) float scales[GROUPS];
};

// 1 / x, and 0 where that would overflow.
static inline F32 reciprocals(F32 x) {
    const F32 magnitude = max(x, sub(set1(0.0f), x));
    return zero_below(div(set1(1.0f), x), magnitude, 1.0f / 3.402823466e38f);
}

static inline F32 nearest_codes(F32 weights, F32 inverse) {
    return min(max(round(mul(weights, inverse)), set1(-8.0f)), set1(7.0f));
}

// The best sub-scales and codes under d. Returns the d that fits them best by least squares, 0 where all is 0.
static float choose_codes(Places* row, float d) {
    F32 along = set1(0.0f), power = set1(0.0f);
    const F32 inverse_d = set1(reciprocal(d));
    for (int64_t g = 0; g < GROUPS; g += W) {
        const F32 near = round(mul(load(row->ideals + g), inverse_d));  // within -15..15 but for rounding in d
        F32 least_error = set1(__builtin_inff()), best = set1(0.0f);
        for (int side = -1; side <= 1; side += 2)
            for (int delta = -3; delta <= 3; delta++) {
                const F32 beside = fma(near, set1(float(side)), set1(float(delta)));
                const F32 s = min(max(beside, set1(-15.0f)), set1(15.0f));
                const F32 scale = mul(s, set1(d)), inverse = reciprocals(scale);
                F32 error = set1(0.0f);
                for (int64_t i = 0; i < GROUP; i++) {
                    const F32 w = load(row->weights + i * GROUPS + g);
                    const F32 off = fnma(nearest_codes(w, inverse), scale, w);
                    error = fma(off, off, error);
                }
                best = where_less(error, least_error, s, best);
                least_error = min(error, least_error);
            }
        store(row->scales + g, best);
        const F32 inverse = reciprocals(mul(best, set1(d)));
        for (int64_t i = 0; i < GROUP; i++) {
            const F32 w = load(row->weights + i * GROUPS + g), code = nearest_codes(w, inverse);
            store(row->codes + i * GROUPS + g, code);
            const F32 exact = mul(code, best);
            along = fma(w, exact, along);
            power = fma(exact, exact, power);
        }
    }
    return sum(along) * reciprocal(sum(power));
}

static void search_q4(TileRow* row) {
    Places places;
    float largest_ideal = 0;
    for (int64_t g = 0; g < GROUPS; g++) {
        float extreme = 0;
        for (int64_t i = 0; i < GROUP; i++) {
            const float w = row->weights[g * GROUP + i];
            places.weights[i * GROUPS + g] = w;
            if (fabsf(w) > fabsf(extreme)) extreme = w;
        }
        places.ideals[g] = extreme / -8.0f;  // the largest weight on the side that has the extra code
        if (fabsf(places.ideals[g]) > largest_ideal) largest_ideal = fabsf(places.ideals[g]);
    }
    row->d = widen(bf16_above(largest_ideal / 15.0f));
    const float fitted = choose_codes(&places, row->d);
    if (fitted > 0) row->d = widen(bf16_nearest(fitted));
    choose_codes(&places, row->d);
    for (int64_t g = 0; g < GROUPS; g++) {
        row->scales[g] = int8_t(places.scales[g]);
        for (int64_t i = 0; i < GROUP; i++) row->codes[g * GROUP + i] = int8_t(places.codes[i * GROUPS + g]);
    }
}

static void search_q8(TileRow* row) {
    const int32_t bits = magnitude_bits(row->weights);
    float most;
    memcpy(&most, &bits, 4);
    row->d = widen(bf16_above(most / 127.0f));
    const F32 inverse = set1(reciprocal(row->d)), limit = set1(127.0f);
    for (int64_t i = 0; i < INPUTS; i += W) {
        const F32 code = mul(load(row->weights + i), inverse);
        store_i8(row->codes + i, min(max(code, set1(-127.0f)), limit));
    }
}

static void write_d(const TileRow& row, int64_t r, uint8_t* tile) {
    const uint16_t d = uint16_t(float_bits(row.d) >> 16);
    memcpy(tile + 2 * r, &d, 2);
}

static void write_row(Q8, const TileRow& row, int64_t r, uint8_t* tile) {
    write_d(row, r, tile);
    uint8_t* codes = tile + 2 * ROWS + r / STRIP * STRIP_BYTES + r % STRIP * 4;
    for (int64_t quad = 0; quad < QUADS; quad++) memcpy(codes + quad * LINE, row.codes + 4 * quad, 4);
}

static void write_row(Q4, const TileRow& row, int64_t r, uint8_t* tile) {
    write_d(row, r, tile);
    const int64_t strip = r / STRIP, in_strip = r % STRIP;
    auto* signs = reinterpret_cast<uint16_t*>(tile + Q4::SIGNS) + strip * GROUPS;
    for (int half = 0; half < 2; half++) {
        uint32_t word = 0;
        for (int g = 0; g < 8; g++) {
            const int s = row.scales[half * 8 + g];
            word |= uint32_t(s & 15) << (4 * g);
            if (s < 0) signs[half * 8 + g] = uint16_t(signs[half * 8 + g] | 1u << in_strip);
        }
        memcpy(tile + Q4::SCALES + ((strip * 2 + half) * STRIP + in_strip) * 4, &word, 4);
    }
    uint8_t* codes = tile + Q4::CODES + strip * Q4::STRIP_CODES + in_strip * 4;
    for (int64_t pair = 0; pair < QUADS / 2; pair++)
        for (int64_t i = 0; i < 4; i++) {
            const int low = row.codes[pair * 8 + i] + 8, high = row.codes[pair * 8 + 4 + i] + 8;
            codes[pair * LINE + i] = uint8_t(low | high << 4);
        }
}

template <class Tile>
static int64_t quantize_tiles(Team* team, const Matrix& from, uint8_t* storage) {
    const int64_t tall = ceil_div(from.out, ROWS), wide = ceil_div(from.in, INPUTS);
    auto* all_weights = reinterpret_cast<float*>(thread_scratch(team, size_t(wide * INPUTS) * sizeof(float)));
    auto* bad_rows = static_cast<int64_t*>(team->scratch(team, LIST_SLOT, size_t(tall) * sizeof(int64_t)));
    parallel(team, tall, from.out * from.in < SMALL_WORK, [=](int64_t i, int thread) {
        bad_rows[i] = -1;
        float* weights = all_weights + thread * wide * INPUTS;
        memset(storage + i * wide * Tile::BYTES, 0, size_t(wide * Tile::BYTES));
        for (int64_t r = i * ROWS; r < (i + 1) * ROWS; r++) {
            memset(weights, 0, size_t(wide * INPUTS) * sizeof(float));
            if (r < from.out) weight_row(from, r, weights);
            for (int64_t b = 0; b < wide; b++) {
                TileRow row = {};
                row.weights = weights + b * INPUTS;
                if (magnitude_bits(row.weights) >= INFINITE) {
                    if (bad_rows[i] < 0) bad_rows[i] = r;
                    continue;
                }
                if constexpr (Tile::HAS_SCALES) search_q4(&row);
                else search_q8(&row);
                write_row(Tile(), row, r % ROWS, storage + (i * wide + b) * Tile::BYTES);
            }
        }
    });
    for (int64_t i = 0; i < tall; i++)
        if (bad_rows[i] >= 0) return bad_rows[i];
    return -1;
}

static int64_t quantize(Team* team, const Matrix* from, Format to, uint8_t* storage) {
    return to == Format::q4 ? quantize_tiles<Q4>(team, *from, storage) : quantize_tiles<Q8>(team, *from, storage);
}

}  // namespace octuor::OCTUOR_ISA
