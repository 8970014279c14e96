// Plain weights to tiled formats. The same search as quant/grouped.py, with sub-scales near the ideal one only.
//
// With an importance of each input, the squared error that is minimised counts each weight's so many times.
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

// How to search. Weighted: the errors of inputs count as their importance says. Thorough: from several d, each fitted
// again until that gains nothing. Either way every sub-scale is tried: a group's largest weight says little then.
template <bool WEIGHTED_, bool THOROUGH_>
struct Search {
    static constexpr bool WEIGHTED = WEIGHTED_, THOROUGH = THOROUGH_, TRIES_ALL = WEIGHTED || THOROUGH;
};
constexpr float STARTS[] = {1.0f, 0.8f};  // d, as a share of the one that just reaches the largest weight
constexpr int MOST_FITS = 4;

// One row of one tile: 256 weights, zeros beyond the matrix.
struct TileRow {
    const float* weights;     // [256]
    const float* importance;  // [256] by place, as Places has its weights; null: all alike
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

// For a group's scale s, its 1 / (s * d) and the weights, the nearest q. Where |s * q| could pass 127, q may not.
template <class Tile>
struct Nearest {
    F32 inverse, least_q, most_q;
    Nearest(F32 s, F32 scale) : inverse(reciprocals(scale)) {
        least_q = set1(float(Tile::LOWEST)), most_q = set1(float(Tile::HIGHEST));
        if (-Tile::LOWEST * Tile::S_MAX > 127) {
            const F32 magnitude = max(max(s, sub(set1(0.0f), s)), set1(1.0f));
            const F32 limit = round(sub(div(set1(127.0f), magnitude), set1(0.49f)));  // down; no quotient is above .875
            most_q = min(most_q, limit), least_q = max(least_q, sub(set1(0.0f), limit));
        }
    }
    F32 of(F32 weights) const {
        const F32 ideal = mul(weights, inverse);
        if constexpr (Tile::LOOKS_UP) {
            F32 q = set1(float(Tile::LOWEST));
            for (int i = 1; i < Tile::N_CODES; i++) {
                const float own = float(Tile::QS[i]), middle = (float(Tile::QS[i - 1]) + own) / 2;
                q = where_less(set1(middle), ideal, set1(own), q);
            }
            return q;
        }
        return min(max(round(ideal), least_q), most_q);
    }
};

// What choose_codes finds: the d that fits its choice best by least squares, 0 where all is 0, and the choice's error.
struct Fit {
    float d, error;
};

// The best sub-scales and codes under d, sub-scales from a range about the ideal one or all of them.
template <class Tile, class How>
static Fit choose_codes(Places* row, const float* importance, float d) {
    F32 along = set1(0.0f), power = set1(0.0f), error = set1(0.0f);
    const F32 inverse_d = set1(reciprocal(d)), most = set1(float(Tile::S_MAX));
    constexpr int below = How::TRIES_ALL ? Tile::S_MAX : Tile::LOOKS_UP ? 6 : 3, above = How::TRIES_ALL ? 0 : 3;
    for (int64_t g = 0; g < GROUPS; g += W) {
        const F32 near = How::TRIES_ALL ? most : min(round(mul(load(row->ideals + g), inverse_d)), most);
        F32 least_error = set1(__builtin_inff()), best = set1(0.0f);
        for (int side = -1; side <= 1; side += 2)
            for (int delta = -below; delta <= above; delta++) {
                const F32 magnitude = min(max(add(near, set1(float(delta))), set1(0.0f)), most);
                const F32 s = mul(magnitude, set1(float(side))), scale = mul(s, set1(d));
                const Nearest<Tile> nearest(s, scale);
                F32 sum = set1(0.0f);
                for (int64_t i = 0; i < GROUP; i++) {
                    const F32 w = load(row->weights + i * GROUPS + g);
                    const F32 off = fnma(nearest.of(w), scale, w);
                    sum = fma(How::WEIGHTED ? mul(off, load(importance + i * GROUPS + g)) : off, off, sum);
                }
                best = where_less(sum, least_error, s, best);
                least_error = min(sum, least_error);
            }
        store(row->scales + g, best);
        error = add(error, least_error);
        const Nearest<Tile> nearest(best, mul(best, set1(d)));
        for (int64_t i = 0; i < GROUP; i++) {
            const F32 w = load(row->weights + i * GROUPS + g), code = nearest.of(w);
            store(row->codes + i * GROUPS + g, code);
            const F32 exact = mul(code, best);
            const F32 counted = How::WEIGHTED ? mul(exact, load(importance + i * GROUPS + g)) : exact;
            along = fma(w, counted, along);
            power = fma(exact, counted, power);
        }
    }
    return {sum(along) * reciprocal(sum(power)), sum(error)};
}

template <class How, class Tile>
static void search(Tile, TileRow* row) {
    Places places;
    float largest = 0;
    for (int64_t g = 0; g < GROUPS; g++) {
        float extreme = 0;
        for (int64_t i = 0; i < GROUP; i++) {
            const float w = row->weights[g * GROUP + i];
            places.weights[i * GROUPS + g] = w;
            if (fabsf(w) > extreme) extreme = fabsf(w);
        }
        places.ideals[g] = extreme / float(-Tile::LOWEST);  // the largest weight on the side that reaches farther
        if (extreme > largest) largest = extreme;
    }
    const float reach = float(-Tile::LOWEST * Tile::S_MAX > 127 ? Tile::HIGHEST : -Tile::LOWEST) * Tile::S_MAX;
    row->d = widen(bf16_above(largest / reach));
    if constexpr (How::THOROUGH) {
        const float first = row->d;
        float least_error = __builtin_inff();
        for (const float start : STARTS) {
            float d = widen(bf16_nearest(first * start));
            for (int i = 0; i < MOST_FITS; i++) {
                const Fit fit = choose_codes<Tile, How>(&places, row->importance, d);
                if (!(fit.error < least_error) && i > 0) break;
                if (fit.error < least_error) row->d = d, least_error = fit.error;
                if (!(fit.d > 0)) break;
                d = widen(bf16_nearest(fit.d));
            }
        }
    } else {
        const Fit fit = choose_codes<Tile, How>(&places, row->importance, row->d);
        if (fit.d > 0) row->d = widen(bf16_nearest(fit.d));
    }
    choose_codes<Tile, How>(&places, row->importance, row->d);
    for (int64_t g = 0; g < GROUPS; g++) {
        row->scales[g] = int8_t(places.scales[g]);
        for (int64_t i = 0; i < GROUP; i++) row->codes[g * GROUP + i] = int8_t(places.codes[i * GROUPS + g]);
    }
}

template <class How>
static void search(Q8, TileRow* row) {
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

// Adds the bits of a code, which are zero so far, to a plane.
template <int MASK, class Tile>
static inline void add_bits(Tile, uint8_t* plane, int64_t input, int code) {
    const auto at = Tile::template place<MASK>(input / 4);
    uint8_t* byte = plane + at.line * LINE + input % 4;
    *byte = uint8_t(*byte | (code & MASK) >> __builtin_ctz(MASK) << at.bit);
}

template <int MAIN, int EXTRA, int S_MAX, int... Q>
static void write_row(Grouped<MAIN, EXTRA, S_MAX, Q...> format, const TileRow& row, int64_t r, uint8_t* tile) {
    using Tile = Grouped<MAIN, EXTRA, S_MAX, Q...>;
    write_d(row, r, tile);
    const int64_t strip = r / STRIP, in_strip = r % STRIP;
    auto* signs = reinterpret_cast<uint16_t*>(tile + Tile::SIGNS) + strip * GROUPS;
    for (int half = 0; half < 2; half++) {
        uint32_t word = 0;
        for (int g = 0; g < 8; g++) {
            const int s = row.scales[half * 8 + g];
            word |= uint32_t(s & 15) << (4 * g);
            if (s < 0) signs[half * 8 + g] = uint16_t(signs[half * 8 + g] | 1u << in_strip);
        }
        memcpy(tile + Tile::SCALES + ((strip * 2 + half) * STRIP + in_strip) * 4, &word, 4);
    }
    uint8_t* codes = tile + Tile::CODES + strip * Tile::STRIP_CODES + in_strip * 4;
    for (int64_t i = 0; i < INPUTS; i++) {
        int code = row.codes[i] - Tile::LOWEST;
        if constexpr (Tile::LOOKS_UP)
            for (code = 0; Tile::QS[code] != row.codes[i];) code++;
        add_bits<MAIN>(format, codes, i, code);
        if constexpr (EXTRA != 0) add_bits<EXTRA>(format, codes + Tile::STRIP_MAIN, i, code);
    }
}

// The importance of each input in the order of Places, tile after tile; 1 beyond the matrix.
static const float* places_of(Team* team, const float* importance, int64_t n) {
    const int64_t wide = ceil_div(n, INPUTS);
    auto* by_place = static_cast<float*>(team->scratch(team, INPUTS_SLOT, size_t(wide * INPUTS) * sizeof(float)));
    for (int64_t at = 0; at < wide * INPUTS; at++) {
        const int64_t place = at % INPUTS, input = at - place + place % GROUPS * GROUP + place / GROUPS;
        by_place[at] = input < n ? importance[input] : 1.0f;
    }
    return by_place;
}

template <class How, class Tile>
static int64_t quantize_tiles(Team* team, const Matrix& from, const float* importance, uint8_t* storage) {
    const int64_t tall = ceil_div(from.out, ROWS), wide = ceil_div(from.in, INPUTS);
    const float* by_place = How::WEIGHTED ? places_of(team, importance, from.in) : nullptr;
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
                row.importance = How::WEIGHTED ? by_place + b * INPUTS : nullptr;
                if (magnitude_bits(row.weights) >= INFINITE) {
                    if (bad_rows[i] < 0) bad_rows[i] = r;
                    continue;
                }
                search<How>(Tile(), &row);
                write_row(Tile(), row, r % ROWS, storage + (i * wide + b) * Tile::BYTES);
            }
        }
    });
    for (int64_t i = 0; i < tall; i++)
        if (bad_rows[i] >= 0) return bad_rows[i];
    return -1;
}

static int64_t quantize(Team* team, const Matrix* from, Format to, const float* importance, bool thorough,
                        uint8_t* storage) {
    return by_tile(to, [&]<class Tile>() {
        if (thorough)  // q8 has nothing more to search
            return importance ? quantize_tiles<Search<true, true>, Tile>(team, *from, importance, storage)
                              : quantize_tiles<Search<false, true>, Tile>(team, *from, nullptr, storage);
        return importance ? quantize_tiles<Search<true, false>, Tile>(team, *from, importance, storage)
                          : quantize_tiles<Search<false, false>, Tile>(team, *from, nullptr, storage);
    });
}

}  // namespace octuor::OCTUOR_ISA
