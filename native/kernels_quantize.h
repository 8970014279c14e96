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

// The codes of one group under a scale, and the error they make.
static inline float group_codes(const float* w, float scale, F32 (&codes)[STRIP_VECTORS]) {
    const F32 inverse = set1(reciprocal(scale));
    F32 error = set1(0.0f);
    for (int v = 0; v < STRIP_VECTORS; v++) {
        const F32 part = load(w + v * W);
        codes[v] = min(max(round(mul(part, inverse)), set1(-8.0f)), set1(7.0f));
        const F32 off = fnma(codes[v], set1(scale), part);
        error = fma(off, off, error);
    }
    return sum(error);
}

// The best sub-scales and codes under row->d; returns their error, and the sums that refit d.
static float choose_codes(TileRow* row, const float* ideals, float* along, float* power) {
    const float inverse = reciprocal(row->d);
    float total = 0;
    F32 along_sum = set1(0.0f), power_sum = set1(0.0f);
    for (int64_t g = 0; g < GROUPS; g++) {
        const float* w = row->weights + g * GROUP;
        const int near = int(nearbyintf(ideals[g] * inverse));  // within -15..15 but for rounding in d
        float best_error = __builtin_inff();
        int best = 0;
        F32 codes[STRIP_VECTORS];
        for (int side = -1; side <= 1; side += 2)
            for (int delta = -3; delta <= 3; delta++) {
                int s = side * near + delta;
                s = s > 15 ? 15 : s < -15 ? -15 : s;
                const float error = group_codes(w, float(s) * row->d, codes);
                if (error < best_error) best_error = error, best = s;
            }
        total += group_codes(w, float(best) * row->d, codes);
        row->scales[g] = int8_t(best);
        for (int v = 0; v < STRIP_VECTORS; v++) {
            store_i8(row->codes + g * GROUP + v * W, codes[v]);
            const F32 exact = mul(codes[v], set1(float(best)));
            along_sum = fma(load(w + v * W), exact, along_sum);
            power_sum = fma(exact, exact, power_sum);
        }
    }
    *along = sum(along_sum), *power = sum(power_sum);
    return total;
}

static void search_q4(TileRow* row) {
    float ideals[GROUPS], largest_ideal = 0;
    for (int64_t g = 0; g < GROUPS; g++) {
        float extreme = 0;
        for (int64_t i = 0; i < GROUP; i++) {
            const float w = row->weights[g * GROUP + i];
            if (fabsf(w) > fabsf(extreme)) extreme = w;
        }
        ideals[g] = extreme / -8.0f;
        if (fabsf(ideals[g]) > largest_ideal) largest_ideal = fabsf(ideals[g]);
    }
    row->d = widen(bf16_above(largest_ideal / 15.0f));
    float along, power;
    choose_codes(row, ideals, &along, &power);
    const float fitted = along * reciprocal(power);
    if (fitted > 0) row->d = widen(bf16_nearest(fitted));
    choose_codes(row, ideals, &along, &power);
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
                if (magnitude_bits(row.weights) >= INFINITE && bad_rows[i] < 0) bad_rows[i] = r;
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
