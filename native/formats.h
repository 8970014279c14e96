// Number formats: how a stored weight becomes vectors. A new format is one struct here.
//
// Plain formats are types that `load` widens: float, f16, bf16. Tiled formats, 64 rows x 256 inputs a tile, have
//   BYTES               of a tile; it begins with 64 bf16, the scale D of each row
//   dot<N>(...)         N tokens times a tile as it is stored
//   unpack(tile, out)   the tile as int8 in q8's layout, made for exact_dot: [4 strips][64 quads][16 rows][4 inputs]
// The layout of the tiles is described in src/octuor/quant/int8_exact.py.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t ROWS = 64, INPUTS = 256, STRIP = 16, STRIPS = ROWS / STRIP;
constexpr int64_t GROUP = 16, GROUPS = INPUTS / GROUP, QUADS = INPUTS / 4, LINE = 64;
constexpr int STRIP_VECTORS = int(STRIP) / W;
constexpr int64_t STRIP_BYTES = QUADS * LINE;  // of int8 codes

// 256 inputs of one token, rounded to int8.
struct alignas(64) Activations {
    int8_t codes[INPUTS];
    int32_t group_starts[GROUPS];  // -8 times the sum of each 16 codes, as group_dot wants it
    float scale;
    int32_t exact_start;
    int32_t unused[14];
};

// scale: of W rows. acc[t] += exact sums * scale of the row * scale of the token, N tokens.
static inline F32 row_scales(const uint8_t* tile, int64_t first_row) {
    return load(reinterpret_cast<const bf16*>(tile) + first_row);
}

// Brings a stretch of memory nearer, a little at each step of other work.
struct Ahead {
    const uint8_t* at;  // null: nothing
    void lines(int n) {
        if (!at) return;
        for (int i = 0; i < n; i++, at += LINE) prefetch(at);
    }
};

// Exact products: acc [N][64] += (int8 codes in q8's layout) . activations, times both scales.
// STORED: the codes are as in a file; otherwise they went through exact_weights.
template <int N, bool STORED>
static inline void exact_tile(const uint8_t* codes, const uint8_t* tile, const Activations* const* x, float* acc,
                              Ahead ahead, int lines_a_quad) {
    constexpr int V = TILE_VECTORS;
    for (int64_t v0 = 0; v0 < ROWS / W; v0 += V) {
        I32 sums[V][N];
        for (int t = 0; t < N; t++)
            for (int v = 0; v < V; v++) sums[v][t] = set1_i(x[t]->exact_start);
        for (int64_t quad = 0; quad < QUADS; quad++) {
            I32 weights[V];
            for (int v = 0; v < V; v++) {
                int64_t row = (v0 + v) * W;
                I32 stored = load_i(codes + row / STRIP * STRIP_BYTES + quad * LINE + row % STRIP * 4);
                weights[v] = STORED ? exact_weights(stored) : stored;
            }
            for (int t = 0; t < N; t++) {
                I32 inputs = broadcast(x[t]->codes + 4 * quad);
                for (int v = 0; v < V; v++) sums[v][t] = exact_dot(sums[v][t], weights[v], inputs);
            }
            ahead.lines(lines_a_quad);
        }
        for (int v = 0; v < V; v++) {
            F32 scale = row_scales(tile, (v0 + v) * W);
            for (int t = 0; t < N; t++) {
                float* at = acc + t * ROWS + (v0 + v) * W;
                store(at, fma(to_f32(sums[v][t]), mul(scale, set1(x[t]->scale)), load(at)));
            }
        }
    }
}

struct Q8 {
    static constexpr bool HAS_SCALES = false;
    static constexpr int64_t BYTES = 2 * ROWS + ROWS * INPUTS;

    template <int N>
    static inline void dot(const uint8_t* tile, const Activations* const* x, float* acc, Ahead ahead) {
        constexpr int lines = int(BYTES / LINE / (QUADS * (ROWS / W / TILE_VECTORS)));
        exact_tile<N, true>(tile + 2 * ROWS, tile, x, acc, ahead, lines);
    }

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
    // Of 8 groups of the W rows from first_row of a strip on.
    static inline I32 scales(const uint8_t* tile, int64_t strip, int half, int first_row) {
        return load_i(tile + SCALES + ((strip * 2 + half) * STRIP + first_row) * 4);
    }

    template <int N>
    static inline void dot(const uint8_t* tile, const Activations* const* x, float* acc, Ahead ahead) {
        // With one token two vectors of rows share its broadcasts and hide the latency of the sums.
        constexpr int V = N == 1 && STRIP_VECTORS > 1 ? 2 : 1;
        for (int64_t strip = 0; strip < STRIPS; strip++) {
            const uint8_t* codes = tile + CODES + strip * STRIP_CODES;
            for (int v0 = 0; v0 < STRIP_VECTORS; v0 += V) {
                I32 sums[V][N];
                for (int v = 0; v < V; v++)
                    for (int t = 0; t < N; t++) sums[v][t] = set1_i(0);
                for (int half = 0; half < 2; half++) half_strip<N, V>(tile, codes, strip, half, v0, x, sums, ahead);
                for (int v = 0; v < V; v++) {
                    int64_t row = strip * STRIP + (v0 + v) * W;
                    F32 scale = row_scales(tile, row);
                    for (int t = 0; t < N; t++) {
                        float* at = acc + t * ROWS + row;
                        store(at, fma(to_f32(sums[v][t]), mul(scale, set1(x[t]->scale)), load(at)));
                    }
                }
            }
        }
    }

    template <int N, int V>
    static inline void half_strip(const uint8_t* tile, const uint8_t* codes, int64_t strip, int half, int v0,
                                  const Activations* const* x, I32 (&sums)[V][N], Ahead& ahead) {
        I32 words[V];
        for (int v = 0; v < V; v++) words[v] = scales(tile, strip, half, (v0 + v) * W);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const int group = half * 8 + g;
            I32 group_sums[V][N];
            for (int t = 0; t < N; t++)
                for (int v = 0; v < V; v++) group_sums[v][t] = set1_i(x[t]->group_starts[group]);
            for (int pair = 0; pair < 2; pair++) {
                I32 even[V], odd[V];
                for (int v = 0; v < V; v++) {
                    I32 packed = load_i(codes + (group * 2 + pair) * LINE + (v0 + v) * W * 4);
                    even[v] = low_nibbles(packed), odd[v] = high_nibbles(packed);
                }
                for (int t = 0; t < N; t++) {
                    const int8_t* inputs = x[t]->codes + group * GROUP + pair * 8;
                    I32 first = broadcast(inputs), second = broadcast(inputs + 4);
                    for (int v = 0; v < V; v++) {
                        group_sums[v][t] = group_dot(group_sums[v][t], even[v], first);
                        group_sums[v][t] = group_dot(group_sums[v][t], odd[v], second);
                    }
                }
            }
            for (int v = 0; v < V; v++) {
                I32 scale = group_scale(words[v], g, signs(tile, strip) + group, (v0 + v) * W);
                for (int t = 0; t < N; t++) sums[v][t] = group_add(sums[v][t], group_sums[v][t], scale);
            }
            if (v0 == 0) ahead.lines(g == 3 || (g == 7 && half) ? 3 : 2);  // 35 lines every 16 groups
        }
    }

    // (code - 8) * scale of every weight, as exact_weights has it.
    static inline void unpack(const uint8_t* tile, uint8_t* out) {
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int half = 0; half < 2; half++)
                for (int first_row = 0; first_row < STRIP; first_row += W) {
                    const I32 words = scales(tile, strip, half, first_row);
#pragma GCC unroll 8
                    for (int g = 0; g < 8; g++) {
                        const int group = half * 8 + g;
                        const ByteScale scale(group_scale(words, g, signs(tile, strip) + group, first_row));
                        for (int pair = 0; pair < 2; pair++) {
                            const int64_t line = (strip * GROUPS + group) * 2 + pair;
                            I32 packed = load_i(tile + CODES + line * LINE + first_row * 4);
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
