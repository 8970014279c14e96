// Number formats: how a stored weight becomes vectors. A new format is one struct here.
//
// Plain formats are types that `load` widens: float, f16, bf16. Tiled formats, 64 rows x 256 inputs a tile, have
//   BYTES               of a tile; it begins with 64 bf16, the scale D of each row
//   dot<N>(...)         N tokens times a tile as it is stored
//   unpack<S>(tile, out)  the tile as int8 in q8's layout, made for exact_dot: [4 strips][64 quads][16 rows][4];
//                       S is the instruction set's ByteScale
// The layout of the tiles is described in docs/formats.md.
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
    int32_t* group_starts;  // [n, 16]: -8 times the sum of each 16 codes, as group_start makes it
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
#pragma GCC unroll 4 / QUADS_AT_ONCE
            for (int64_t quad = step; quad < step + QUADS / STEPS; quad += QUADS_AT_ONCE) {
                Inputs inputs[N];
                for (int t = 0; t < N; t++) inputs[t] = load_inputs(x.codes + t * INPUTS + 4 * quad);
#pragma GCC unroll QUADS_AT_ONCE
                for (int q = 0; q < QUADS_AT_ONCE; q++) {
                    I32 weights[V];
                    for (int v = 0; v < V; v++) {
                        int64_t row = (v0 + v) * W;
                        I32 stored = load_i(codes + row / STRIP * STRIP_BYTES + (quad + q) * LINE + row % STRIP * 4);
                        weights[v] = STORED ? exact_weights(stored) : stored;
                    }
                    for (int t = 0; t < N; t++) {
                        const Quad four = quad_of(inputs[t], q);
                        for (int v = 0; v < V; v++) sums[v][t] = exact_dot(sums[v][t], weights[v], four);
                    }
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

template <int OFFSET_BITS>
struct ByteScale;  // defined where UNPACKS_TILES

struct Q8 {
    static constexpr bool HAS_SCALES = false;
    static constexpr int64_t BYTES = 2 * ROWS + ROWS * INPUTS;

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        constexpr int lines = int(BYTES / LINE / (STEPS * (ROWS / W / TILE_VECTORS)));
        exact_tile<N, true>(tile + 2 * ROWS, tile, x, acc, ahead, lines);
    }

    template <template <int> class>
    static inline void unpack(const uint8_t* tile, uint8_t* out) {
        for (int64_t i = 0; i < ROWS * INPUTS; i += 4 * W) store_i(out + i, exact_weights(load_i(tile + 2 * ROWS + i)));
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const uint8_t* codes = tile + 2 * ROWS + row / STRIP * STRIP_BYTES;
        float d = widen(reinterpret_cast<const bf16*>(tile)[row]);
        return d * float(int8_t(codes[input / 4 * LINE + row % STRIP * 4 + input % 4]));
    }
};

// Codes in groups of 16 inputs, each group with a scale s of 5 bits. The bits of a code that MAIN and EXTRA have lie in
// planes of their own: a line has 16 rows x 4 bytes, and with B bits of a code a byte of it has those of 8 / B quads.
// Pair p of its quads lies at bit B * p, even quad, and B * p + 4, odd quad. A code's weight is its place among the Qs,
// less than 16; without them it is code - OFFSET.
template <int MAIN, int EXTRA, int S_MAX_, int... Q>
struct Grouped {
    static constexpr bool HAS_SCALES = true, LOOKS_UP = sizeof...(Q) > 0;
    static constexpr int CODE = MAIN | EXTRA, N_CODES = CODE + 1, S_MAX = S_MAX_;
    static constexpr int OFFSET_BITS = CODE < 16 ? 3 : CODE < 32 ? 4 : 5, OFFSET = 1 << OFFSET_BITS;
    alignas(16) static constexpr uint8_t TABLE[16] = {uint8_t(Q + OFFSET)...};
    static constexpr int MAIN_BITS = __builtin_popcount(MAIN), EXTRA_BITS = __builtin_popcount(EXTRA);
    static constexpr bool WIDE = OFFSET > 16;  // sums of a group of products take 17 bits
    static constexpr int EXTRA_GROUPS = EXTRA_BITS == 1 ? 2 : 1;  // that share a line of the extra plane
    static constexpr int64_t SIGNS = 2 * ROWS, SCALES = SIGNS + 2 * STRIPS * GROUPS;
    static constexpr int64_t CODES = SCALES + ROWS * GROUPS / 2;
    static constexpr int64_t STRIP_MAIN = STRIP * INPUTS * MAIN_BITS / 8;
    static constexpr int64_t STRIP_CODES = STRIP_MAIN + STRIP * INPUTS * EXTRA_BITS / 8;
    static constexpr int64_t BYTES = CODES + STRIPS * STRIP_CODES;
    static constexpr int STRIP_LINES = int(BYTES / LINE / STRIPS), QUARTER_LINES = (STRIP_LINES + 1) / 4;

    static inline const uint16_t* signs(const uint8_t* tile, int64_t strip) {
        return reinterpret_cast<const uint16_t*>(tile + SIGNS) + strip * GROUPS;
    }
    // Of groups 4 * quarter to 4 * quarter + 3 of the W rows from first_row of a strip on.
    static inline GroupScales scales(const uint8_t* tile, int64_t strip, int quarter, int first_row) {
        return GroupScales(tile + SCALES + ((strip * 2 + quarter / 2) * STRIP + first_row) * 4, quarter % 2);
    }

    struct Pair {
        I32 even, odd;
    };
    // q + OFFSET of pair p (0 or 1) of a group's quads, from their lines of the planes.
    static inline Pair pair(I32 main, I32 extra, I32 table, int group, int p) {
        const int main_at = MAIN_BITS == 2 ? 2 * p : 0;
        const int extra_at = EXTRA_BITS == 1 ? group % 2 * 2 + p : 2 * p;
        const int to = EXTRA ? __builtin_ctz(EXTRA) - extra_at : 0;
        if (CODE > 15) {
            const I32 even = choose_bits(main, shift(extra, to), MAIN);
            const I32 odd = choose_bits(shift(main, -4), shift(extra, to - 4), MAIN);
            return {bits(even, CODE), bits(odd, CODE)};
        }
        I32 both = shift(main, -main_at);
        if (EXTRA) both = choose_bits(both, shift(extra, to), MAIN * 0x11);
        const I32 even = bits(both, CODE), odd = high_bits(both, CODE);
        if (LOOKS_UP) return {lookup(table, even), lookup(table, odd)};
        return {even, odd};
    }

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        // With one token two vectors of rows share its broadcasts and hide the latency of the sums.
        constexpr int V = N == 1 && STRIP_VECTORS > 1 ? 2 : 1;
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int first_row = 0; first_row < STRIP; first_row += V * W) {
                const Ahead part = first_row ? Ahead() : ahead.take(STRIP_LINES);
                rows_dot<N, V>(tile, strip, first_row, x, acc + strip * STRIP + first_row, part);
            }
    }

    // V * W rows from first_row of a strip on. A function of its own, for with less around it gcc 12 keeps the loop in
    // registers.
    template <int N, int V>
    __attribute__((noinline)) static void rows_dot(const uint8_t* tile, int64_t strip, int first_row, Activations x,
                                                   float* acc, Ahead ahead) {
        const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
        const uint8_t* extras = codes + STRIP_MAIN;
        const uint16_t* group_signs = signs(tile, strip);
        const int8_t* inputs = x.codes;
        const int32_t* starts = x.group_starts;
        const I32 table = load_table(TABLE);
        I32 sums[V][N];
        for (int v = 0; v < V; v++)
            for (int t = 0; t < N; t++) sums[v][t] = set1_i(0);
        for (int quarter = 0; quarter < 4; quarter++) {
            GroupScales group_scales[V];
            for (int v = 0; v < V; v++) group_scales[v] = scales(tile, strip, quarter, first_row + v * W);
            ahead.lines(quarter < 3 ? QUARTER_LINES : STRIP_LINES - 3 * QUARTER_LINES);
#pragma GCC unroll GROUPS_UNROLLED
            for (int some = 0; some < 4; some += EXTRA_GROUPS) {
#pragma GCC unroll 2
                for (int g = 0; g < EXTRA_GROUPS; g++) {
                    I32 group_sums[V][N];
                    for (int t = 0; t < N; t++)
                        for (int v = 0; v < V; v++)
                            group_sums[v][t] = start_times(set1_i(starts[t * GROUPS]), OFFSET_BITS - 3);
                    Inputs group_inputs[N];
                    for (int t = 0; t < N; t++) group_inputs[t] = load_inputs(inputs + t * INPUTS);
#pragma GCC unroll 2
                    for (int p = 0; p < 2; p++) {
                        Pair pairs[V];
                        for (int v = 0; v < V; v++) {
                            const I32 main = load_i(codes + (MAIN_BITS == 4 ? p * LINE : 0) + v * W * 4);
                            pairs[v] = pair(main, EXTRA ? load_i(extras + v * W * 4) : main, table, g, p);
                        }
                        for (int t = 0; t < N; t++) {
                            const Quad first = quad_of(group_inputs[t], 2 * p);
                            const Quad second = quad_of(group_inputs[t], 2 * p + 1);
                            for (int v = 0; v < V; v++) {
                                group_sums[v][t] = group_dot(group_sums[v][t], pairs[v].even, first);
                                group_sums[v][t] = group_dot(group_sums[v][t], pairs[v].odd, second);
                            }
                        }
                    }
                    for (int v = 0; v < V; v++) {
                        const I32 scale = group_scales[v].template next<WIDE>(group_signs, first_row + v * W);
                        for (int t = 0; t < N; t++)
                            sums[v][t] = group_add<WIDE>(sums[v][t], group_sums[v][t], scale);
                    }
                    codes += MAIN_BITS / 2 * LINE, inputs += GROUP, starts++, group_signs++;
                }
                extras += LINE;
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

    // q * s of every weight, as exact_weights has it.
    template <template <int> class ByteScale>
    static inline void unpack(const uint8_t* tile, uint8_t* out) {
        const I32 table = load_table(TABLE);
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int quarter = 0; quarter < 4; quarter++)
                for (int first_row = 0; first_row < STRIP; first_row += W) {
                    const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
                    GroupScales group_scales = scales(tile, strip, quarter, first_row);
#pragma GCC unroll 4
                    for (int g = 0; g < 4; g++) {
                        const int group = quarter * 4 + g;
                        const ByteScale<OFFSET_BITS> scale(group_scales, signs(tile, strip) + group, first_row);
                        const uint8_t* extras = codes + STRIP_MAIN + group / EXTRA_GROUPS * LINE;
                        for (int p = 0; p < 2; p++) {
                            const int line = MAIN_BITS == 4 ? group * 2 + p : group;
                            const I32 main = load_i(codes + line * LINE);
                            const Pair both = pair(main, EXTRA ? load_i(extras) : main, table, g, p);
                            uint8_t* to = out + ((strip * GROUPS + group) * 4 + p * 2) * LINE + first_row * 4;
                            store_i(to, scale.times(both.even));
                            store_i(to + LINE, scale.times(both.odd));
                        }
                    }
                }
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const int64_t strip = row / STRIP, group = input / GROUP;
        uint32_t word;
        memcpy(&word, tile + SCALES + ((strip * 2 + group / 8) * STRIP + row % STRIP) * 4, 4);
        const int scale = int(word >> (4 * (group % 8)) & 15) - 16 * (signs(tile, strip)[group] >> (row % STRIP) & 1);
        const uint8_t* codes = tile + CODES + strip * STRIP_CODES + row % STRIP * 4 + input % 4;
        int code = stored_bits<MAIN>(codes, input / 4);
        if constexpr (EXTRA != 0) code |= stored_bits<EXTRA>(codes + STRIP_MAIN, input / 4);
        if constexpr (LOOKS_UP) code = TABLE[code];
        return widen(reinterpret_cast<const bf16*>(tile)[row]) * float(scale * (code - OFFSET));
    }

    // Where the bits of a quad's code lie in a plane with B bits of each.
    struct Place {
        int64_t line;
        int bit;
    };
    template <int B>
    static inline Place place(int64_t quad) {
        return {quad / (8 / B), int(quad % (8 / B) / 2 * B + quad % 2 * 4)};
    }
    template <int MASK>
    static inline int stored_bits(const uint8_t* plane, int64_t quad) {
        const Place at = place<__builtin_popcount(MASK)>(quad);
        return (plane[at.line * LINE] >> at.bit << __builtin_ctz(MASK)) & MASK;
    }
};

using Q6 = Grouped<0x0f, 0x30, 4>;
using Q5 = Grouped<0x0f, 0x10, 8>;
using Q4 = Grouped<0x0f, 0, 15>;
using Q3 = Grouped<0x03, 0x04, 15, -8, -5, -3, -1, 0, 2, 3, 6>;
using Q2 = Grouped<0x03, 0, 15, -8, -3, 1, 5>;

// Calls f.operator()<Tile>() for a tiled format.
template <class F>
static inline auto by_tile(Format format, F f) {
    switch (format) {
        case Format::q6: return f.template operator()<Q6>();
        case Format::q5: return f.template operator()<Q5>();
        case Format::q4: return f.template operator()<Q4>();
        case Format::q3: return f.template operator()<Q3>();
        case Format::q2: return f.template operator()<Q2>();
        default: return f.template operator()<Q8>();
    }
}

}  // namespace octuor::OCTUOR_ISA
