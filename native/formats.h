// Number formats: how a stored weight becomes vectors. A new format is one struct here.
//
// Plain formats are types that `load` widens: float, f16, bf16. Tiled formats, 64 rows x 256 inputs a tile, have
//   BYTES               of a tile; it begins with 64 bf16, the scale D of each row
//   dot<N>(...)         N tokens times a tile as it is stored
//   unpack<S>(tile, out)  the tile as int8 in q8's layout, made for exact_dot: [4 strips][64 quads][16 rows][4];
//                       S is the instruction set's ByteScale
//   numbers(tile, strip, group, width, out)  16 rows x 16 inputs as float32, a row `width` after the one before
//   at(tile, row, input)  one of them
//   open<P>(tile, out)  the tile as an OpenTile, where OPENS_TILES; P is the instruction set's GroupPairs
// The layout of the tiles is described in docs/formats.md.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t ROWS = 64, INPUTS = 256, STRIP = 16, STRIPS = ROWS / STRIP;
constexpr int64_t GROUP = 16, GROUPS = INPUTS / GROUP, QUADS = INPUTS / 4, LINE = 64;
constexpr int64_t STEPS = 8;  // of an exact product over a tile, between which memory is fetched ahead
constexpr int OPEN_STEPS = int(GROUPS / 2 * (ROWS / W / OPEN_TILE_VECTORS));
constexpr int64_t STRIP_BYTES = QUADS * LINE;  // of int8 codes

// The codes of one token as an open tile meets them: groups by twos, and in those inputs by twos in turn.
struct OpenInputs {
    int16_t codes[GROUPS / 2][8][2];
    int16_t starts[GROUPS / 2][2];

    void set(const int8_t* plain, const int32_t* group_starts) {
        for (int64_t pair = 0; pair < GROUPS / 2; pair++)
            for (int64_t odd = 0; odd < 2; odd++) {
                const int64_t group = 2 * pair + odd;
                for (int64_t i = 0; i < 8; i++) memcpy(&codes[pair][i][odd], plain + group * GROUP + 2 * i, 2);
                starts[pair][odd] = int16_t(group_starts[group] + (group_starts[group] >> 16));
            }
    }
};

// 256 inputs of some tokens, rounded to int8. Codes lie by themselves, for they are what caches have to hold.
struct Activations {
    int8_t* codes;          // [n, 256]
    int32_t* group_starts;  // [n, 16]: -8 times the sum of each 16 codes, as group_start makes it
    int32_t* exact_starts;  // [n]
    float* scales;          // [n]
    int16_t* group_sums;    // [n, 16]: of 16 codes each
    OpenInputs* open;       // [n]; made only where OPENS_TILES
    Activations from(int64_t t) const {
        return {codes + t * INPUTS, group_starts + t * GROUPS, exact_starts + t,
                scales + t, group_sums + t * GROUPS,           open + t};
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
        if (FETCHES_FAR)
            for (int i = 0; i < n; i++) prefetch_far(at + i * LINE);
        else
            for (int i = 0; i < n; i++) prefetch(at + i * LINE);
        at += n * LINE;
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

// A tile with scales, opened for many tokens. Groups lie in pairs, so that a lane holds two inputs of each and its two
// 16-bit sums are those of two groups: one multiplication gives both their scales.
struct OpenTile {
    alignas(64) uint8_t codes[STRIPS][GROUPS / 2][8][LINE];   // 16 rows x (two inputs of the even group, two of the odd)
    alignas(64) int32_t scales[STRIPS][GROUPS / 2][STRIP];  // the even group's in the lower half, the odd one's above
};

// acc [N][64] += (the products of an open tile) . activations, times both scales. A function of its own, for with less
// around it gcc 12 keeps the sums of a pair in registers.
template <int N, int OFFSET_BITS>
__attribute__((noinline)) static void open_tile_dot(const OpenTile& open, const uint8_t* tile,
                                                    Activations x, float* acc, Ahead ahead, int lines_a_step) {
    constexpr int V = OPEN_TILE_VECTORS;
    for (int64_t v0 = 0; v0 < ROWS / W; v0 += V) {
        const uint8_t* codes[V];
        const int32_t* scales[V];
        I32 sums[V][N];
        for (int v = 0; v < V; v++) {
            const int64_t row = (v0 + v) * W;
            codes[v] = open.codes[row / STRIP][0][0] + row % STRIP * 4;
            scales[v] = open.scales[row / STRIP][0] + row % STRIP;
            for (int t = 0; t < N; t++) sums[v][t] = set1_i(0);
        }
        for (int64_t pair = 0; pair < GROUPS / 2; pair++) {
            ahead.lines(lines_a_step);
            I32 pair_sums[V][N];
            for (int t = 0; t < N; t++)
                for (int v = 0; v < V; v++)
                    pair_sums[v][t] = start_times(broadcast(x.open[t].starts[pair]), OFFSET_BITS - 3);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                I32 weights[V];
                for (int v = 0; v < V; v++) weights[v] = load_i(codes[v] + (8 * pair + i) * LINE);
                for (int t = 0; t < N; t++) {
                    const I32 four = broadcast(x.open[t].codes[pair][i]);
                    for (int v = 0; v < V; v++) pair_sums[v][t] = group_dot(pair_sums[v][t], weights[v], four);
                }
            }
            for (int v = 0; v < V; v++) {
                const I32 scale = load_i(scales[v] + pair * STRIP);
                for (int t = 0; t < N; t++) sums[v][t] = group_add<false>(sums[v][t], pair_sums[v][t], scale);
            }
        }
        for (int v = 0; v < V; v++) {
            const F32 scale = row_scales(tile, (v0 + v) * W);
            for (int t = 0; t < N; t++) {
                float* at = acc + t * ROWS + (v0 + v) * W;
                store(at, fma(to_f32(sums[v][t]), mul(scale, set1(x.scales[t])), load(at)));
            }
        }
    }
}

template <int OFFSET, int LARGEST>
struct ByteScale;  // defined where UNPACKS_TILES
struct GroupPairs;      // defined where OPENS_TILES

struct Q8 {
    static constexpr bool OPENS = false;
    static constexpr int64_t BYTES = 2 * ROWS + ROWS * INPUTS;

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        constexpr int lines = int(BYTES / LINE / (STEPS * (ROWS / W / TILE_VECTORS)));
        exact_tile<N, true>(tile + 2 * ROWS, tile, x, acc, ahead, lines);
    }

    template <template <int, int> class>
    static inline void unpack(const uint8_t* tile, uint8_t* out, Ahead ahead, int lines_a_step) {
        for (int64_t step = 0; step < STEPS; step++) {
            ahead.lines(lines_a_step);
            for (int64_t i = step * ROWS * INPUTS / STEPS; i < (step + 1) * ROWS * INPUTS / STEPS; i += 4 * W)
                store_i(out + i, exact_weights(load_i(tile + 2 * ROWS + i)));
        }
    }

    static inline void numbers(const uint8_t* tile, int64_t strip, int64_t group, int64_t width, float* out) {
        const uint8_t* lines = tile + 2 * ROWS + strip * STRIP_BYTES + group * GROUP / 4 * LINE;
        const auto* d = reinterpret_cast<const bf16*>(tile) + strip * STRIP;
        for (int64_t row = 0; row < STRIP; row++) {
            int8_t codes[GROUP];
            for (int quad = 0; quad < 4; quad++) memcpy(codes + 4 * quad, lines + quad * LINE + 4 * row, 4);
            for (int i = 0; i < GROUP; i++) out[row * width + i] = widen(d[row]) * float(codes[i]);
        }
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const uint8_t* codes = tile + 2 * ROWS + row / STRIP * STRIP_BYTES;
        float d = widen(reinterpret_cast<const bf16*>(tile)[row]);
        return d * float(int8_t(codes[input / 4 * LINE + row % STRIP * 4 + input % 4]));
    }
};

// Codes in groups of 16 inputs, each group with a scale s of 5 bits. The bits of a code that MAIN and EXTRA have lie in
// planes of their own: a line has 16 rows x 4 bytes, and with B bits of a code a byte of it has those of 8 / B quads.
// Pair p of its quads lies at bit B * p, even quad, and B * p + 4, odd quad; but see extra_bit. The q of a code is the
// one in its place among the Qs, which rise; without them it is code - OFFSET.
template <int MAIN, int EXTRA, int S_MAX_, int... Q>
struct Grouped {
    static constexpr bool LOOKS_UP = sizeof...(Q) > 0;
    static constexpr int CODE = MAIN | EXTRA, N_CODES = CODE + 1, S_MAX = S_MAX_;
    static constexpr int QS[] = {Q..., 0};  // the last is none
    static constexpr int LOWEST = LOOKS_UP ? QS[0] : -(N_CODES / 2), HIGHEST = LOOKS_UP ? QS[CODE] : N_CODES / 2 - 1;
    // Products take q + OFFSET, 8 or a power of 2 above it.
    static constexpr int OFFSET_BITS = LOWEST < -16 ? 5 : LOWEST < -8 ? 4 : 3, OFFSET = 1 << OFFSET_BITS;
    static constexpr int MAIN_BITS = __builtin_popcount(MAIN), EXTRA_BITS = __builtin_popcount(EXTRA);
    static constexpr bool WIDE = OFFSET > 16;  // sums of a group of products take 17 bits
    static constexpr bool OPENS = OPENS_TILES && !WIDE;
    static constexpr int EXTRA_GROUPS = EXTRA_BITS == 1 ? 2 : 1;  // that share a line of the extra plane
    static constexpr int64_t SIGNS = 2 * ROWS, SCALES = SIGNS + 2 * STRIPS * GROUPS;
    static constexpr int64_t CODES = SCALES + ROWS * GROUPS / 2;
    static constexpr int64_t STRIP_MAIN = STRIP * INPUTS * MAIN_BITS / 8;
    static constexpr int64_t STRIP_CODES = STRIP_MAIN + STRIP * INPUTS * EXTRA_BITS / 8;
    static constexpr int64_t BYTES = CODES + STRIPS * STRIP_CODES;
    static constexpr int STRIP_LINES = int(BYTES / LINE / STRIPS);

    // Where pair p of a line of the extra plane begins. Looked-up codes have theirs beside the main bits of the same
    // pair: a nibble, two bits of each plane, is the table's index as it is, and tables pass over what is not theirs.
    static constexpr int extra_bit(int p) { return LOOKS_UP ? p / 2 + 2 * (1 - p % 2) : EXTRA_BITS * p; }
    // A byte for every nibble, q - lowest of the code in it.
    struct Table {
        alignas(16) uint8_t bytes[16];
        constexpr Table(int group, int p, int lowest) : bytes() {
            for (int nibble = 0; nibble < 16; nibble++) {
                int code = nibble >> (2 * p) & 3;
                if (EXTRA) code |= (nibble >> extra_bit(group * 2 + p) & 1) << 2;
                bytes[nibble] = uint8_t(QS[LOOKS_UP ? code : 0] - lowest);
            }
        }
    };
    // Of a group among those that share a line of the extra plane, and a pair of its quads.
    struct Tables {
        I32 of[EXTRA_GROUPS][2];
        template <int LEAST>
        static Tables load() {
            static constexpr Table all[2][2] = {{{0, 0, LEAST}, {0, 1, LEAST}}, {{1, 0, LEAST}, {1, 1, LEAST}}};
            Tables tables;
            for (int g = 0; g < EXTRA_GROUPS; g++)
                for (int p = 0; p < 2; p++) tables.of[g][p] = load_table(all[g][p].bytes);
            return tables;
        }
    };

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
    // Codes, or the tables' bytes, of pair p (0 or 1) of a group's quads, from their lines of the planes.
    static inline Pair pair(I32 main, I32 extra, const Tables& tables, int group, int p) {
        const int g = group % EXTRA_GROUPS;
        const int to = EXTRA ? __builtin_ctz(EXTRA) - extra_bit(g * 2 + p) : 0;
        if (LOOKS_UP) {
            const I32 both = EXTRA ? choose_bits(main, extra, p ? 0xcc : 0x33) : main;
            return {lookup(tables.of[g][p], both), lookup_high(tables.of[g][p], both)};
        }
        if (EXTRA) {
            const I32 even = choose_bits(main, shift(extra, to), MAIN);
            const I32 odd = choose_bits(shift(main, -4), shift(extra, to - 4), MAIN);
            return {bits(even, CODE), bits(odd, CODE)};
        }
        return {bits(main, CODE), high_bits(main, CODE)};
    }

    template <int N>
    static inline void dot(const uint8_t* tile, Activations x, float* acc, Ahead ahead) {
        // With one token two vectors of rows share its broadcasts and hide the latency of the sums.
        constexpr int V = N == 1 ? 2 : 1;
        constexpr int LINES = V * W > STRIP ? 2 * STRIP_LINES : STRIP_LINES;
        for (int row = 0; row < ROWS; row += V * W) {
            const Ahead part = row % STRIP ? Ahead() : ahead.take(LINES);
            rows_dot<N, V, LINES>(tile, row / STRIP, row % STRIP, x, acc + row, part);
        }
    }

    // V * W rows from first_row of a strip on, into the next strip where this one ends. A function of its own, for with
    // less around it gcc 12 keeps the loop in registers.
    template <int N, int V, int LINES>
    __attribute__((noinline)) static void rows_dot(const uint8_t* tile, int64_t strip, int first_row, Activations x,
                                                   float* acc, Ahead ahead) {
        // From one vector to the next.
        constexpr int QUARTER = (LINES + 3) / 4, STRIPS_ON = W < STRIP ? 0 : 1;
        constexpr int64_t CODES_ON = STRIPS_ON ? STRIP_CODES : W * 4;
        const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
        const uint8_t* extras = codes + STRIP_MAIN;
        const uint16_t* group_signs = signs(tile, strip);
        const int8_t* inputs = x.codes;
        const int32_t* starts = x.group_starts;
        const Tables tables = Tables::template load<-OFFSET>();
        I32 sums[V][N];
        for (int v = 0; v < V; v++)
            for (int t = 0; t < N; t++) sums[v][t] = set1_i(0);
        for (int quarter = 0; quarter < 4; quarter++) {
            GroupScales group_scales[V];
            for (int v = 0; v < V; v++)
                group_scales[v] = scales(tile, strip + v * STRIPS_ON, quarter, first_row + v * (W % STRIP));
            ahead.lines(quarter < 3 ? QUARTER : LINES - 3 * QUARTER);
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
                            const I32 main = load_i(codes + (MAIN_BITS == 4 ? p * LINE : 0) + v * CODES_ON);
                            pairs[v] = pair(main, EXTRA ? load_i(extras + v * CODES_ON) : main, tables, g, p);
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
                        const I32 scale = group_scales[v].template next<WIDE>(
                            group_signs + v * STRIPS_ON * GROUPS, first_row + v * (W % STRIP));
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
    template <template <int, int> class ByteScale>
    static inline void unpack(const uint8_t* tile, uint8_t* out, Ahead ahead, int lines_a_step) {
        const Tables tables = Tables::template load<LOWEST>();
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int quarter = 0; quarter < 4; quarter++) {
                if (quarter % 2) ahead.lines(lines_a_step);
                for (int first_row = 0; first_row < STRIP; first_row += W) {
                    const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
                    GroupScales group_scales = scales(tile, strip, quarter, first_row);
#pragma GCC unroll 4
                    for (int g = 0; g < 4; g++) {
                        const int group = quarter * 4 + g;
                        const ByteScale<-LOWEST, HIGHEST - LOWEST> scale(group_scales, signs(tile, strip) + group,
                                                                           first_row);
                        const uint8_t* extras = codes + STRIP_MAIN + group / EXTRA_GROUPS * LINE;
                        for (int p = 0; p < 2; p++) {
                            const int line = MAIN_BITS == 4 ? group * 2 + p : group;
                            const I32 main = load_i(codes + line * LINE);
                            const Pair both = pair(main, EXTRA ? load_i(extras) : main, tables, g, p);
                            uint8_t* to = out + ((strip * GROUPS + group) * 4 + p * 2) * LINE + first_row * 4;
                            store_i(to, scale.times(both.even));
                            store_i(to + LINE, scale.times(both.odd));
                        }
                    }
                }
            }
    }

    template <class GroupPairs>
    static inline void open(const uint8_t* tile, OpenTile* out) {
        const Tables tables = Tables::template load<-OFFSET>();
        for (int64_t strip = 0; strip < STRIPS; strip++)
            for (int first_row = 0; first_row < STRIP; first_row += W) {
                const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
                GroupScales group_scales;
                for (int pair_at = 0; pair_at < GROUPS / 2; pair_at++) {
                    if (pair_at % 2 == 0) group_scales = scales(tile, strip, pair_at / 2, first_row);
                    I32 scale[2];
                    Pair pairs[2][2];
#pragma GCC unroll 2
                    for (int odd = 0; odd < 2; odd++) {
                        const int group = 2 * pair_at + odd;
                        scale[odd] = group_scales.template next<false>(signs(tile, strip) + group, first_row);
                        const uint8_t* extras = codes + STRIP_MAIN + group / EXTRA_GROUPS * LINE;
#pragma GCC unroll 2
                        for (int p = 0; p < 2; p++) {
                            const I32 main = load_i(codes + (MAIN_BITS == 4 ? group * 2 + p : group) * LINE);
                            pairs[odd][p] = pair(main, EXTRA ? load_i(extras) : main, tables, odd, p);
                        }
                    }
                    store_i(out->scales[strip][pair_at] + first_row, GroupPairs::low(scale[0], scale[1]));
                    uint8_t* to = out->codes[strip][pair_at][0] + first_row * 4;
                    for (int p = 0; p < 2; p++, to += 4 * LINE) {
                        const Pair a = pairs[0][p], b = pairs[1][p];
                        store_i(to, GroupPairs::low(a.even, b.even));
                        store_i(to + LINE, GroupPairs::high(a.even, b.even));
                        store_i(to + 2 * LINE, GroupPairs::low(a.odd, b.odd));
                        store_i(to + 3 * LINE, GroupPairs::high(a.odd, b.odd));
                    }
                }
            }
    }

    static inline int scale_at(const uint8_t* tile, int64_t strip, int64_t row, int64_t group) {
        uint32_t word;
        memcpy(&word, tile + SCALES + ((strip * 2 + group / 8) * STRIP + row) * 4, 4);
        return int(word >> (4 * (group % 8)) & 15) - 16 * (signs(tile, strip)[group] >> row & 1);
    }

    static inline void numbers(const uint8_t* tile, int64_t strip, int64_t group, int64_t width, float* out) {
        const Tables tables = Tables::template load<LOWEST>();
        alignas(64) uint8_t lines[4][LINE];  // q - LOWEST
        for (int first_row = 0; first_row < STRIP; first_row += W) {
            const uint8_t* codes = tile + CODES + strip * STRIP_CODES + first_row * 4;
            const uint8_t* extras = codes + STRIP_MAIN + group / EXTRA_GROUPS * LINE;
            for (int p = 0; p < 2; p++) {
                const I32 main = load_i(codes + (MAIN_BITS == 4 ? group * 2 + p : group) * LINE);
                const Pair both = pair(main, EXTRA ? load_i(extras) : main, tables, int(group), p);
                store_i(lines[p * 2] + first_row * 4, both.even);
                store_i(lines[p * 2 + 1] + first_row * 4, both.odd);
            }
        }
        const auto* d = reinterpret_cast<const bf16*>(tile) + strip * STRIP;
        for (int64_t row = 0; row < STRIP; row++) {
            const float scale = float(scale_at(tile, strip, row, group));
            uint8_t codes[GROUP];
            for (int quad = 0; quad < 4; quad++) memcpy(codes + 4 * quad, lines[quad] + 4 * row, 4);
            for (int i = 0; i < GROUP; i++) out[row * width + i] = widen(d[row]) * (scale * float(codes[i] + LOWEST));
        }
    }

    static inline float at(const uint8_t* tile, int64_t row, int64_t input) {
        const int64_t strip = row / STRIP, group = input / GROUP;
        const int scale = scale_at(tile, strip, row % STRIP, group);
        const uint8_t* codes = tile + CODES + strip * STRIP_CODES + row % STRIP * 4 + input % 4;
        int code = stored_bits<MAIN>(codes, input / 4);
        if constexpr (EXTRA != 0) code |= stored_bits<EXTRA>(codes + STRIP_MAIN, input / 4);
        const int q = LOOKS_UP ? QS[code] : code + LOWEST;
        return widen(reinterpret_cast<const bf16*>(tile)[row]) * (float(scale) * float(q));  // -0 as there
    }

    // Where the bits of a quad's code lie in a plane, main or extra.
    struct Place {
        int64_t line;
        int bit;
    };
    template <int MASK>
    static inline Place place(int64_t quad) {
        constexpr int B = __builtin_popcount(MASK);
        const int p = int(quad % (8 / B) / 2);
        return {quad / (8 / B), (MASK == EXTRA ? extra_bit(p) : B * p) + int(quad % 2) * 4};
    }
    template <int MASK>
    static inline int stored_bits(const uint8_t* plane, int64_t quad) {
        const Place at = place<MASK>(quad);
        return (plane[at.line * LINE] >> at.bit << __builtin_ctz(MASK)) & MASK;
    }
};

using Q6 = Grouped<0x0f, 0x30, 4>;
using Q5 = Grouped<0x0f, 0x10, 8>;
using Q4 = Grouped<0x0f, 0, 15>;
using Q3 = Grouped<0x03, 0x04, 11, -11, -7, -4, -2, 0, 2, 5, 8>;
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
