// Attention of many queries at once: blocks of queries meet blocks of keys as matrix products.
//
// SHAPES
//   R queries of a task (tokens times the heads that share a kv head), n keys of a block, C head_dim.
//   queries [panels][C][PANEL], scores [n][PANEL], values [n][C], mixed [R][C].
//
// DEFINITION, for each block of keys and each panel of queries
//   scores[k][r] = keys[k] . queries[r]             scores[k][r] = 2^(scores[k][r] - highest[r])
//   mixed[r]     = mixed[r] * keep[r] + sum_k scores[k][r] * values[k]
//
// REGULARITIES
//   Queries lie along the lanes of a vector, so that maxima and sums go down columns and never across lanes.
//   A number of keys or scores is broadcast, a vector of queries or values loaded: both products are one function.
//   Keys and values are copied once a block: to floats, or rounded to pairs of bfloat16 where the instruction set
//   multiplies those. A word is four bytes, one float or one pair. Copies are padded with zeros.
//   A block that no query of the panel sees is passed over; masks are applied where some see it and some do not.
//   Blocks begin at multiples of BLOCK_KEYS, the first where the oldest key is, and pairs at even positions: which keys
//   are summed together does not depend on the other queries.
//
// EXAMPLE (a prompt of Mixtral): 32 tokens x 4 heads = 128 queries in 2 panels, 64 keys a block, C 128.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t BLOCK_KEYS = 64;
constexpr int REGISTER_ROWS = W == 8 ? 6 : 4, REGISTER_VECTORS = W == 16 ? 4 : 2;  // sums of a product
constexpr int64_t PANEL = W == 8 ? 48 : 64;       // queries whose scores stay in L1; a multiple of both above
constexpr int64_t MOST_QUERIES = W == 8 ? 144 : 128;  // of a task, unless one kv head has more heads
constexpr float LOWEST_SCORE = -3.402823466e38f;  // finite, so that a row which has seen nothing yet needs no branch
constexpr float LOG2_E = 1.44269504f;               // queries are scaled by it: the softmax is in powers of 2
constexpr float MINUS_INFINITY = -__builtin_inff();

static inline int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

// One float a lane. vec_avx512.h has Pairs, two bfloat16 a lane.
struct Single {
    static constexpr int STEP = 1;
    using Vector = F32;
    static Vector load(const float* p) { return octuor::OCTUOR_ISA::load(p); }
    static Vector broadcast(const float* p) { return set1(*p); }
    static void store(float* p, Vector x) { octuor::OCTUOR_ISA::store(p, x); }
    static Vector ones() { return set1(1.0f); }
    static F32 fma(Vector a, Vector b, F32 sum) { return octuor::OCTUOR_ISA::fma(a, b, sum); }
    static F32 exp2(F32 x) { return octuor::OCTUOR_ISA::exp2(x); }
};

// The queries of a task and what they have gathered so far. Units of scores are powers of 2.
struct Queries {
    int64_t n;
    const float *mixed, *highest, *total;  // [n, mixed_stride], [n], [n]
    int64_t mixed_stride;
};

// Where keys or values lie: one pointer a row.
template <class T>
struct Gathered {
    const T* keys[BLOCK_KEYS];
    const T* values[BLOCK_KEYS];
    int64_t n;
    // Brings rows from..to of either nearer.
    static void fetch(const T* const* rows, int64_t from, int64_t to, int64_t c) {
        for (int64_t i = from; i < to; i++)
            for (int64_t at = 0; at < c; at += LINE / int64_t(sizeof(T))) prefetch(rows[i] + at);
    }
};

// f<V>(i) for vectors i to i + V of n, then for fewer at once.
template <int V, class F>
static inline void in_vectors(int64_t i, int64_t n, F f) {
    for (; i + V <= n; i += V) f.template operator()<V>(i);
    if constexpr (V > 1) in_vectors<V / 2>(i, n, f);
}

// sums[r][v] += a[r] times vector v of b, over `depth` words. Words of a are a_row and a_step apart.
template <class M, int R, int V>
static inline void add_product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                               int64_t depth, F32 (&sums)[R][V]) {
    for (int64_t d = 0; d < depth; d++, a += a_step, b += b_step) {
        typename M::Vector vectors[V];
        for (int v = 0; v < V; v++) vectors[v] = M::load(b + v * W);
        for (int r = 0; r < R; r++) {
            const typename M::Vector number = M::broadcast(a + r * a_row);
            for (int v = 0; v < V; v++) sums[r][v] = M::fma(number, vectors[v], sums[r][v]);
        }
    }
}

// Vector i of a row of n numbers, zeros beyond.
template <class T>
static inline F32 part(const T* row, int64_t i, int64_t n) {
    if (i + W <= n) return load(row + i);
    return i < n ? load_n(row + i, n - i) : set1(0.0f);
}

// n numbers in a row to words.
template <class M, class T>
static inline void copy_along(const T* row, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += M::STEP * W, to += W) {
        if constexpr (M::STEP == 1) M::store(to, part(row, i, n));
        else M::store(to, M::along(part(row, i, n), part(row, i + W, n)));
    }
}

// STEP rows of n numbers to words that hold one of each; odd null: zeros.
template <class M, class T>
static inline void copy_across(const T* even, const T* odd, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += W, to += W) {
        if constexpr (M::STEP == 1) M::store(to, part(even, i, n));
        else M::store(to, M::across(part(even, i, n), odd ? part(odd, i, n) : set1(0.0f)));
    }
}

// Scratch of a task, for at most `rows` queries.
struct BlockScratch {
    int64_t words, width;  // of a key; of a value in numbers
    int64_t queries, mixed, keys, values, scores, keep, numbers, size;

    BlockScratch(int64_t rows, int64_t c, int step) {
        const int64_t panels = round_up(rows, PANEL);
        words = round_up(c, step * W) / step, width = round_up(c, W);
        int64_t at = 0;
        auto take = [&](int64_t n) {
            const int64_t from = at;
            at += round_up(n, 16);
            return from;
        };
        queries = take(panels * words);
        mixed = take((panels + REGISTER_ROWS) * width);
        keys = take((BLOCK_KEYS + REGISTER_ROWS) * words);
        values = take(BLOCK_KEYS * width);
        const int64_t a_query = 2 * round_up(c, step * W);  // as floats and as words, before there are scores
        scores = take(a_query + (BLOCK_KEYS + REGISTER_ROWS) * PANEL);
        keep = take(PANEL + REGISTER_ROWS);
        numbers = take(3 * panels);  // highest, total and positions
        size = at;
    }
};

// scores [n][PANEL] of one panel. Meanwhile fetches the next block's keys.
template <class M, class T>
static void score_panel(const float* queries, int64_t rows, const float* keys, int64_t words, int64_t n, int64_t c,
                        float* scores, const Gathered<T>* next) {
    constexpr int R = REGISTER_ROWS;
    const int64_t depth = ceil_div(c, M::STEP);
    for (int64_t k = 0; k < n; k += R) {
        if (next) next->fetch(next->keys, k, least(k + R, next->n), c);
        in_vectors<REGISTER_VECTORS>(0, ceil_div(rows, W), [&]<int V>(int64_t i) {
            F32 sums[R][V];
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] = set1(0.0f);
            add_product<M, R, V>(keys + k * words, words, 1, queries + i * W, PANEL, depth, sums);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) store(scores + (k + r) * PANEL + (i + v) * W, sums[r][v]);
        });
    }
}

// Puts minus infinity where a query does not see a key, which is on a block's edge. Keys are at positions `from` on.
static void mask_panel(float* scores, int64_t rows, int64_t n, const int32_t* positions, int64_t from, int64_t window) {
    alignas(64) float first[PANEL], last[PANEL];  // keys of the block that each query sees
    for (int64_t r = 0; r < PANEL; r++) {
        first[r] = window ? float(positions[r] - window + 1 - from) : 0.0f;
        last[r] = float(positions[r] - from);
    }
    const F32 hidden = set1(MINUS_INFINITY);
    for (int64_t k = 0; k < n; k++)
        for (int64_t r = 0; r < rows; r += W) {
            const F32 at = set1(float(k));
            float* score = scores + k * PANEL + r;
            store(score, where_less(at, load(first + r), hidden, where_less(load(last + r), at, hidden, load(score))));
        }
}

// Scores to weights, in words: [n][PANEL] to [n / STEP][PANEL] in the same place, with maxima and sums carried on.
// keep[r] is what the row's earlier sums have to be multiplied by.
template <class M>
static void weigh_panel(float* scores, int64_t rows, int64_t n, float* highest, float* total, float* keep) {
    in_vectors<REGISTER_VECTORS>(0, ceil_div(rows, W), [&]<int V>(int64_t i) {
        F32 tops[V], totals[V];
        float* column = scores + i * W;
        for (int v = 0; v < V; v++) tops[v] = load(highest + (i + v) * W);
        for (int64_t k = 0; k < n; k++)
            for (int v = 0; v < V; v++) tops[v] = max(load(column + k * PANEL + v * W), tops[v]);
        for (int v = 0; v < V; v++) {
            const int64_t at = (i + v) * W;
            const F32 kept = exp2(sub(load(highest + at), tops[v]));
            totals[v] = mul(load(total + at), kept);
            store(keep + at, kept);
            store(highest + at, tops[v]);
        }
        for (int64_t k = 0; k < n; k += M::STEP)
            for (int v = 0; v < V; v++) {
                const float* from = column + k * PANEL + v * W;
                const F32 even = M::exp2(sub(load(from), tops[v]));
                typename M::Vector weights;
                if constexpr (M::STEP == 1) weights = even;
                else weights = M::across(even, k + 1 < n ? M::exp2(sub(load(from + PANEL), tops[v])) : set1(0.0f));
                M::store(column + k / M::STEP * PANEL + v * W, weights);
                totals[v] = M::fma(M::ones(), weights, totals[v]);  // as rounded, so that weights sum to 1
            }
        for (int v = 0; v < V; v++) store(total + (i + v) * W, totals[v]);
    });
}

// mixed = mixed * keep + weights times values. Meanwhile fetches the next block's values.
template <class M, class T>
static void mix_panel(const float* weights, int64_t rows, const float* values, int64_t width, int64_t n, int64_t c,
                      const float* keep, float* mixed, const Gathered<T>* next) {
    constexpr int R = REGISTER_ROWS;
    const int64_t depth = ceil_div(n, M::STEP);
    const int64_t steps = ceil_div(width, REGISTER_VECTORS * W) * ceil_div(rows, R);
    const int64_t a_step = next ? ceil_div(next->n, steps) : 0;  // rows to fetch
    int64_t fetched = 0;
    in_vectors<REGISTER_VECTORS>(0, width / W, [&]<int V>(int64_t i) {
        for (int64_t r = 0; r < rows; r += R) {
            if (next) next->fetch(next->values, fetched, least(fetched + a_step, next->n), c), fetched += a_step;
            F32 sums[R][V];
            float* at = mixed + r * width + i * W;
            for (int l = 0; l < R; l++)
                for (int v = 0; v < V; v++) sums[l][v] = mul(load(at + l * width + v * W), set1(keep[r + l]));
            add_product<M, R, V>(weights + r, 1, PANEL, values + i * W, width, depth, sums);
            for (int l = 0; l < R; l++)
                for (int v = 0; v < V; v++) store(at + l * width + v * W, sums[l][v]);
        }
    });
}

// Queries, scaled, as words: [panels][words][PANEL]. `one` is room for one, as floats and as words.
template <class M, class Query>
static void lay_queries(int64_t rows, int64_t c, int64_t words, Query query, float* queries, float* one) {
    const float scale = LOG2_E / sqrtf(float(c));
    float* line = one + round_up(c, W);
    memset(queries, 0, size_t(round_up(rows, PANEL) * words) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
        const float* row = query(r);
        for (int64_t i = 0; i < c; i++) one[i] = row[i] * scale;
        copy_along<M>(one, c, line);
        float* to = queries + r / PANEL * PANEL * words + r % PANEL;
        for (int64_t d = 0; d < ceil_div(c, M::STEP); d++) to[d * PANEL] = line[d];
    }
}

// The queries of a task against keys `from` to end. `gather(p, n, &rows)` finds where n keys from position p on lie; p
// may be one before `from`, a key that no query sees. `query(r)` is where query r begins, `position(r)` where its token
// stands.
template <class M, class T, class Gather, class Query, class Position>
static Queries attend_blocks(int64_t rows, int64_t c, int64_t from, int64_t end, int64_t window, Gather gather,
                             Query query, Position position, float* memory) {
    const BlockScratch scratch(rows, c, M::STEP);
    const int64_t padded = round_up(rows, PANEL), words = scratch.words, width = scratch.width;
    float *queries = memory + scratch.queries, *keys = memory + scratch.keys, *values = memory + scratch.values;
    float *scores = memory + scratch.scores, *keep = memory + scratch.keep, *mixed = memory + scratch.mixed;
    float *highest = memory + scratch.numbers, *total = highest + padded;
    auto* positions = reinterpret_cast<int32_t*>(total + padded);

    memset(mixed, 0, size_t((padded + REGISTER_ROWS) * width) * sizeof(float));
    memset(keep, 0, size_t(PANEL + REGISTER_ROWS) * sizeof(float));
    for (int64_t r = 0; r < padded; r++) {
        highest[r] = LOWEST_SCORE, total[r] = 0.0f;
        positions[r] = position(least(r, rows - 1));
    }
    lay_queries<M>(rows, c, words, query, queries, scores);

    from -= from % 2;
    auto keys_from = [&](int64_t p) { return least(BLOCK_KEYS - p % BLOCK_KEYS, end - p); };
    Gathered<T> gathered[2];
    gather(from, keys_from(from), &gathered[0]);
    for (int64_t n, which = 0; from < end; from += n, which = !which) {
        const Gathered<T>& here = gathered[which];
        n = here.n;
        const Gathered<T>* next = nullptr;
        if (from + n < end) {
            gather(from + n, keys_from(from + n), &gathered[!which]);
            next = &gathered[!which];
        }
        for (int64_t k = 0; k < n; k++) copy_along<M>(here.keys[k], c, keys + k * words);
        memset(keys + n * words, 0, size_t(REGISTER_ROWS * words) * sizeof(float));
        for (int64_t k = 0; k < n; k += M::STEP)
            copy_across<M>(here.values[k], M::STEP == 2 && k + 1 < n ? here.values[k + 1] : nullptr, c,
                           values + k / M::STEP * width);
        for (int64_t first = 0; first < rows; first += PANEL) {
            const int64_t in_panel = least(PANEL, rows - first);
            const int32_t* p = positions + first;
            int64_t oldest = p[0], newest = p[0];
            for (int64_t r = 1; r < in_panel; r++) {
                oldest = least(oldest, p[r]);
                newest = p[r] > newest ? p[r] : newest;
            }
            if (newest < from || (window && from + n <= oldest - window + 1)) continue;
            score_panel<M>(queries + first * words, in_panel, keys, words, n, c, scores, next);
            if (oldest < from + n - 1 || (window && from < newest - window + 1))
                mask_panel(scores, in_panel, n, p, from, window);
            weigh_panel<M>(scores, in_panel, n, highest + first, total + first, keep);
            mix_panel<M>(scores, in_panel, values, width, n, c, keep, mixed + first * width, next);
            next = nullptr;
        }
    }
    return {rows, mixed, highest, total, width};
}

}  // namespace octuor::OCTUOR_ISA
