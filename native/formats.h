// Number formats: how a stored weight becomes vectors. A new format is one struct here.
//
// Plain formats are types that `load` widens: float, f16, bf16. Tiled formats, 64 rows x 256 inputs a tile, have
//   BYTES               of a tile; it begins with 64 bf16, the scale D of each row
//   dot<N>(...)         N tokens times a tile as it is stored
//   unpack<S>(tile, out)  the tile as int8 in q8's layout, made for exact_dot: [4 strips][64 quads][16 rows][4];
//                       S is the instruction set's ByteScale
// The layout of the tiles is described in src/octuor/quant/int8_exact.py.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t ROWS = 64, INPUTS = 256, STRIP = 16, STRIPS = ROWS / STRIP;
constexpr int64_t GROUP = 16, GROUPS = INPUTS / GROUP, QUADS = INPUTS / 4, LINE = 64;
constexpr int64_t STEPS = 8;  // of an exact product over a tile, between which memory is fetched ahead
constexpr int STRIP_VECTORS = int(STRIP) / W;
constexpr int64_t STRIP_BYTES = QUADS * LINE;  // of int8 codes

// 256 inputs of some tokens, rounded to int8. Codes lie by themselves, for they are what caches have to hold.
struct Activations {
    int8_t* codes;          // [n, 256]
    int32_t* group_starts;  // [n, 16]: -8 times the sum of each 16 codes, as group_dot wants it
    int32_t* exact_starts;  // [n]
    float* scales;          // [n]
    Activations from(int64_t t) const {
        return {codes + t * INPUTS, group_starts + t * GROUPS, exact_starts + t, scales + t};
    }
};

static inline F32 row_scales(const uint8_t* tile, int64_t first_row) {
    return load(reinterpret_cast<const bf16*>(tile) + first_row);
}

// Brings a stretch of memory nearer, a little at each step of other work.
struct Ahead {
    const uint8_t* at = nullptr;  // null: nothing
    void lines(int n) {
        if (!at) return;
        for (int i = 0; i < n; i++, at += LINE) prefetch(at);
    }
    // The next n lines, left to somebody else.
    Ahead take(int n) {
        Ahead part = *this;
        if (at) at += n * LINE;
        return part;
    }
};

// Exact products: acc [N][64] += (int8 codes in q8's layout) . activations, times both scales.
// STORED: the codes are as in a file; otherwise they went through exact_weights.
template <int N, bool STORED>
static inline void exact_tile(const uint8_t* codes, const uint8_t* tile, Activations x, float* acc, Ahead ahead,
                              int lines_a_step) {
    constexpr int V = TILE_VECTORS;
    for (int64_t v0 = 0; v0 < ROWS / W; v0 += V) {
        I32 sums[V][N];
        for (int t = 0; t < N; t++)
            for (int v = 0; v < V; v++) sums[v][t] = set1_i(x.exact_starts[t]);
        for (int64_t step = 0; step < QUADS; step += QUADS / STEPS) {
            ahead.lines(lines_a_step);
#pragma GCC unroll 4
            for (int64_t quad = step; quad < step + QUADS / STEPS; quad++) {
                I32 weights[V];
                for (int v = 0; v < V; v++) {
                    int64_t row = (v0 + v) * W;
                    I32 stored = load_i(codes + row / STRIP * STRIP_BYTES + quad * LINE + row % STRIP * 4);
                    weights[v] = STORED ? exact_weights(stored) : stored;
                }
                for (int t = 0; t < N; t++) {
                    I32 inputs = broadcast(x.codes + t * INPUTS + 4 * quad);
                    for (int v = 0; v < V; v++) sums[v][t] = exact_dot(sums[v][t], weights[v], inputs);
                }
            }
        }
        for (int v = 0; v < V; v++) {
            F32 scale = row_scales(tile, (v0 + v) * W);
            for (int t = 0; t < N; t++) {
                float* at = acc + t * ROWS + (v0 + v) * W;
                store(at, fma(to_f32(sums[v][t]), mul(scale, set1(x.scales[t])), load(at)));
            }
        }
    }
}

struct ByteScale;  // defined where UNPACKS_TILES

struct Q8 {
    static constexpr bool HAS_SCALES = false;
    static constexpr int64_t BYTES = 2 * ROWS + ROWS * INPUTS;

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        constexpr int lines = int(BYTES / LINE / (STEPS * (ROWS / W / TILE_VECTORS)));
        exact_tile<N, true>(tile + 2 * ROWS, tile, x, acc, ahead, lines);
    }

    template <class>
    static inline void unpack(const uint8_t* tile, uint8_t* out) {
        for (int64_t i = 0; i < ROWS * INPUTS; i += 4 * W) store_i(out + i, exact_weights(load_i(tile + 2 * ROWS + i)));
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const uint8_t* codes = tile + 2 * ROWS + row / STRIP * STRIP_BYTES;
        float d = widen(reinterpret_cast<const bf16*>(tile)[row]);
        return d * float(int8_t(codes[input / 4 * LINE + row % STRIP * 4 + input % 4]));
    }
};

struct Q4 {
    static constexpr bool HAS_SCALES = true;
    static constexpr int64_t SIGNS = 2 * ROWS, SCALES = SIGNS + 2 * STRIPS * GROUPS;
    static constexpr int64_t CODES = SCALES + ROWS * GROUPS / 2, BYTES = CODES + ROWS * INPUTS / 2;
    static constexpr int64_t STRIP_CODES = STRIP * INPUTS / 2;

    static inline const uint16_t* signs(const uint8_t* tile, int64_t strip) {
        return reinterpret_cast<const uint16_t*>(tile + SIGNS) + strip * GROUPS;
    }
    // Of groups 4 * quarter to 4 * quarter + 3 of the W rows from first_row of a strip on.
    static inline GroupScales scales(const uint8_t* tile, int64_t strip, int quarter, int first_row) {
        return GroupScales(tile + SCALES + ((strip * 2 + quarter / 2) * STRIP + first_row) * 4, quarter % 2);
    }

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        // With one token two vectors of rows share its broadcasts and hide the latency of the sums.
        constexpr int V = N == 1 && STRIP_VECTORS > 1 ? 2 : 1;
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int first_row = 0; first_row < STRIP; first_row += V * W) {
                const Ahead part = first_row ? Ahead() : ahead.take(int(BYTES / LINE / STRIPS));
                rows_dot<N, V>(tile, strip, first_row, x, acc + strip * STRIP + first_row, part);
            }
    }

    // V * W rows from first_row of a strip on. A function of its own, for with less around it gcc 12 keeps the loop in
    // registers.
    template <int N, int V>
    __attribute__((noinline)) static void rows_dot(const uint8_t* tile, int64_t strip, int first_row, Activations x,
                                                   float* acc, Ahead ahead) {
        const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
        const uint16_t* group_signs = signs(tile, strip);
        const int8_t* inputs = x.codes;
        const int32_t* starts = x.group_starts;
        I32 sums[V][N];
        for (int v = 0; v < V; v++)
            for (int t = 0; t < N; t++) sums[v][t] = set1_i(0);
        for (int quarter = 0; quarter < 4; quarter++) {
            GroupScales group_scales[V];
            for (int v = 0; v < V; v++) group_scales[v] = scales(tile, strip, quarter, first_row + v * W);
            ahead.lines(quarter < 3 ? 9 : 8);  // 35 a strip
#pragma GCC unroll GROUPS_UNROLLED
            for (int g = 0; g < 4; g++) {
                I32 group_sums[V][N];
                for (int t = 0; t < N; t++)
                    for (int v = 0; v < V; v++) group_sums[v][t] = set1_i(starts[t * GROUPS]);
                for (int pair = 0; pair < 2; pair++) {
                    I32 even[V], odd[V];
                    for (int v = 0; v < V; v++) {
                        const I32 packed = load_i(codes + pair * LINE + v * W * 4);
                        even[v] = low_nibbles(packed), odd[v] = high_nibbles(packed);
                    }
                    for (int t = 0; t < N; t++) {
                        const int8_t* at = inputs + t * INPUTS + pair * 8;
                        const I32 first = broadcast(at), second = broadcast(at + 4);
                        for (int v = 0; v < V; v++) {
                            group_sums[v][t] = group_dot(group_sums[v][t], even[v], first);
                            group_sums[v][t] = group_dot(group_sums[v][t], odd[v], second);
                        }
                    }
                }
                for (int v = 0; v < V; v++) {
                    const I32 scale = group_scales[v].next(group_signs, first_row + v * W);
                    for (int t = 0; t < N; t++) sums[v][t] = group_add(sums[v][t], group_sums[v][t], scale);
                }
                codes += 2 * LINE, inputs += GROUP, starts++, group_signs++;
            }
        }
        for (int v = 0; v < V; v++) {
            const F32 scale = row_scales(tile, strip * STRIP + first_row + v * W);
            for (int t = 0; t < N; t++) {
                float* at = acc + t * ROWS + v * W;
                store(at, fma(to_f32(sums[v][t]), mul(scale, set1(x.scales[t])), load(at)));
            }
        }
    }

    // (code - 8) * scale of every weight, as exact_weights has it.
    template <class ByteScale>
    static inline void unpack(const uint8_t* tile, uint8_t* out) {
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int quarter = 0; quarter < 4; quarter++)
                for (int first_row = 0; first_row < STRIP; first_row += W) {
                    GroupScales group_scales = scales(tile, strip, quarter, first_row);
#pragma GCC unroll 4
                    for (int g = 0; g < 4; g++) {
                        const int group = quarter * 4 + g;
                        const ByteScale scale(group_scales, signs(tile, strip) + group, first_row);
                        for (int pair = 0; pair < 2; pair++) {
                            const int64_t line = (strip * GROUPS + group) * 2 + pair;
                            const I32 packed = scale.turn(load_i(tile + CODES + line * LINE + first_row * 4));
                            uint8_t* to = out + line * 2 * LINE + first_row * 4;
                            store_i(to, scale.times(low_nibbles(packed)));
                            store_i(to + LINE, scale.times(high_nibbles(packed)));
                        }
                    }
                }
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const int64_t strip = row / STRIP, group = input / GROUP, quad = input / 4;
        uint32_t word;
        memcpy(&word, tile + SCALES + ((strip * 2 + group / 8) * STRIP + row % STRIP) * 4, 4);
        int scale = int(word >> (4 * (group % 8)) & 15) - 16 * (signs(tile, strip)[group] >> (row % STRIP) & 1);
        uint8_t packed = tile[CODES + strip * STRIP_CODES + quad / 2 * LINE + row % STRIP * 4 + input % 4];
        int code = (quad % 2 ? packed >> 4 : packed & 15) - 8;
        return widen(reinterpret_cast<const bf16*>(tile)[row]) * float(scale * code);
    }
};

}  // namespace octuor::OCTUOR_ISA
