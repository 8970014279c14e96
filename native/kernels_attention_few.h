// Attention of one token, as in answers: keys and values are met where they lie, at the memory's pace.
//
// SHAPES
//   R queries, those of the heads that share a kv head, in groups of 4; C head_dim.
//   For each kv head: queries [groups][4][C], scores [groups][keys][4], mixed [groups][4][width],
//   width being C in whole vectors.
//
// REGULARITIES
//   The four scores of a key lie side by side, so W lanes are W / 4 keys of the same queries, and maxima and sums are
//   folded once a step of STEP_KEYS. The last group may hold fewer: its products leave out what is not there.
//   What is read next is fetched while this is worked on. A page holds all kv heads' keys: read head by head through
//   all pages, in strides, memory gives 25 GB/s of the 35 that it gives read in order.
//
// EXAMPLE (Mixtral answering): 8 kv heads with 4 queries each, pages of 32 keys, C 128.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t QUERY_GROUP = 4;  // as many as store_sums puts side by side
constexpr int64_t STEP_KEYS = 128;  // keys between two rounds of softmax
constexpr int KEYS_AT_ONCE = W == 16 ? 4 : 2;

// A stretch of consecutive keys or values of one kv head, `stride` numbers from one to the next.
template <class T>
struct Rows {
    const T* at;
    int64_t stride;
};

// What is read next: row k of it is fetched when row k of the present stretch is met. at null: nothing.
struct NextRows {
    const uint8_t* at;
    int64_t row_bytes;
    void rows(int64_t k, int64_t n) const {
        if (at)
            for (int64_t i = k * row_bytes; i < (k + n) * row_bytes; i += LINE) prefetch(at + i);
    }
};

// scores [n][4] = queries [N][c] . keys
template <int N, class T>
static void score_group(const float* queries, Rows<T> keys, int64_t n, int64_t c, float* scores, NextRows next) {
    auto block = [&]<int K>(int64_t k) {
        next.rows(k, K);
        const T* row = keys.at + k * keys.stride;
        F32 sums[K][N];
        for (int i = 0; i < K; i++)
            for (int r = 0; r < N; r++) sums[i][r] = set1(0.0f);
        auto step = [&](int64_t at, int64_t left) {
            F32 key[K];
            for (int i = 0; i < K; i++) {
                const T* from = row + i * keys.stride + at;
                key[i] = left < W ? load_n(from, left) : load(from);
            }
            for (int r = 0; r < N; r++) {
                const float* from = queries + r * c + at;
                const F32 query = left < W ? load_n(from, left) : load(from);
                for (int i = 0; i < K; i++) sums[i][r] = fma(key[i], query, sums[i][r]);
            }
        };
        int64_t at = 0;
        for (; at + W <= c; at += W) step(at, W);
        if (at < c) step(at, c - at);
        for (int i = 0; i < K; i++) {
            float* to = scores + (k + i) * QUERY_GROUP;
            if constexpr (N == QUERY_GROUP) store_sums(to, sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
            else
                for (int r = 0; r < N; r++) to[r] = sum(sums[i][r]);
        }
    };
    int64_t k = 0;
    for (; k + KEYS_AT_ONCE <= n; k += KEYS_AT_ONCE) block.template operator()<KEYS_AT_ONCE>(k);
    for (; k < n; k++) block.template operator()<1>(k);
}

// mixed [N][width] += weights [n][4] times values
template <int N, class T>
static void mix_group(const float* weights, Rows<T> values, int64_t n, int64_t c, float* mixed, int64_t width,
                      NextRows next) {
    constexpr int V = W == 16 || N < 4 ? 4 : 2;
    const int64_t whole = c / W;
    auto columns = [&]<int vectors>(int64_t i, int64_t left) {
        F32 sums[N][vectors];
        float* to = mixed + i * W;
        for (int r = 0; r < N; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] = load(to + r * width + v * W);
        for (int64_t k = 0; k < n; k++) {
            if (i == 0) next.rows(k, 1);
            const T* row = values.at + k * values.stride + i * W;
            F32 value[vectors];
            for (int v = 0; v < vectors; v++) value[v] = left < W ? load_n(row, left) : load(row + v * W);
            for (int r = 0; r < N; r++) {
                const F32 weight = set1(weights[k * QUERY_GROUP + r]);
                for (int v = 0; v < vectors; v++) sums[r][v] = fma(weight, value[v], sums[r][v]);
            }
        }
        for (int r = 0; r < N; r++)
            for (int v = 0; v < vectors; v++) store(to + r * width + v * W, sums[r][v]);
    };
    in_vectors<V>(0, whole, [&]<int vectors>(int64_t i) { columns.template operator()<vectors>(i, W); });
    if (whole * W < c) columns.template operator()<1>(whole, c - whole * W);
}

// Scores [n][4] of a group to weights. The maxima and sums of its queries are in highest and total [4]; keep [4] is
// what their earlier sums have to be multiplied by. Scores are padded to whole vectors by minus infinity.
static void weigh_group(float* scores, int64_t n, float* highest, float* total, float* keep) {
    constexpr int64_t G = QUERY_GROUP;
    const int64_t padded = round_up(n * G, W);
    for (int64_t i = n * G; i < padded; i++) scores[i] = MINUS_INFINITY;
    float lanes[W], before[G];
    for (int r = 0; r < G; r++) before[r] = highest[r];
    F32 tops = load(scores);
    for (int64_t i = W; i < padded; i += W) tops = max(load(scores + i), tops);
    store(lanes, tops);
    for (int i = 0; i < W; i++) highest[i % G] = lanes[i] > highest[i % G] ? lanes[i] : highest[i % G];
    for (int i = 0; i < W; i++) lanes[i] = highest[i % G];
    tops = load(lanes);
    F32 sums = set1(0.0f);
    for (int64_t i = 0; i < padded; i += W) {
        const F32 weights = exp2(sub(load(scores + i), tops));
        store(scores + i, weights);
        sums = add(sums, weights);
    }
    for (int i = 0; i < W; i++) lanes[i] = before[i % G];
    store(lanes, exp2(sub(load(lanes), tops)));
    for (int r = 0; r < G; r++) keep[r] = lanes[r], total[r] *= keep[r];
    store(lanes, sums);
    for (int i = 0; i < W; i++) total[i % G] += lanes[i];
}

// f<N>(group) for each group, N the queries that it works out: at least those it holds.
template <class F>
static inline void in_groups(int64_t rows, F f) {
    int64_t g = 0;
    for (; (g + 1) * QUERY_GROUP <= rows; g++) f.template operator()<4>(g);
    const int64_t left = rows - g * QUERY_GROUP;
    if (left == 1) f.template operator()<1>(g);
    if (left == 2) f.template operator()<2>(g);
    if (left == 3) f.template operator()<4>(g);
}

static int64_t few_floats(int64_t heads, int64_t rows, int64_t c) {
    const int64_t groups = ceil_div(rows, QUERY_GROUP);
    return heads * groups * QUERY_GROUP * (c + round_up(c, W) + STEP_KEYS + 3) + 16;
}

// The queries of some kv heads against keys from `from` to end, which they all see. `keys(h, p)` and `values(h, p)` are
// the Rows of head h from position p on, of which `together(p)` lie together; `query(h, r)` is where query r begins.
// Calls done(h, queries). Heads take turns at each page, for theirs lie side by side: memory is read in order.
template <class T, class Keys, class Values, class Together, class Query, class Done>
static void attend_few(int64_t heads, int64_t rows, int64_t c, int64_t from, int64_t end, Keys keys, Values values,
                       Together together, Query query, float* memory, Done done) {
    constexpr int64_t G = QUERY_GROUP;
    const int64_t padded = round_up(rows, G), all = heads * padded, width = round_up(c, W);
    float *queries = memory, *mixed = queries + all * c, *scores = mixed + all * width;
    float *highest = scores + all * STEP_KEYS, *total = highest + all, *keep = total + all;
    const float scale = LOG2_E / sqrtf(float(c));
    memset(queries, 0, size_t(all * (c + width + STEP_KEYS)) * sizeof(float));
    for (int64_t h = 0; h < heads; h++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < c; i++) queries[(h * padded + r) * c + i] = query(h, r)[i] * scale;
    for (int64_t r = 0; r < all; r++) highest[r] = LOWEST_SCORE, total[r] = 0.0f;

    auto rows_at = [&](const T* at) { return NextRows{reinterpret_cast<const uint8_t*>(at), c * int64_t(sizeof(T))}; };
    const NextRows nothing = rows_at(nullptr);
    for (int64_t n; from < end; from += n) {
        n = least(STEP_KEYS, end - from);
        for (int64_t k = 0, some; k < n; k += some) {
            some = least(together(from + k), n - k);
            for (int64_t h = 0; h < heads; h++) {
                const T* then = h + 1 < heads    ? keys(h + 1, from + k).at
                                : k + some < n ? keys(0, from + k + some).at
                                               : values(0, from).at;
                const NextRows next = rows_at(then);
                in_groups(rows, [&]<int N>(int64_t g) {
                    const int64_t r = h * padded + g * G;
                    score_group<N>(queries + r * c, keys(h, from + k), some, c, scores + r * STEP_KEYS + k * G,
                                   g ? nothing : next);
                });
            }
        }
        for (int64_t r = 0; r < all; r += G) weigh_group(scores + r * STEP_KEYS, n, highest + r, total + r, keep + r);
        for (int64_t r = 0; r < all; r++)
            for (int64_t i = 0; i < width; i += W)
                store(mixed + r * width + i, mul(load(mixed + r * width + i), set1(keep[r])));
        for (int64_t k = 0, some; k < n; k += some) {
            some = least(together(from + k), n - k);
            for (int64_t h = 0; h < heads; h++) {
                const T* then = h + 1 < heads      ? values(h + 1, from + k).at
                                : k + some < n   ? values(0, from + k + some).at
                                : from + n < end ? keys(0, from + n).at
                                                 : nullptr;
                const NextRows next = rows_at(then);
                in_groups(rows, [&]<int N>(int64_t g) {
                    const int64_t r = h * padded + g * G;
                    mix_group<N>(scores + r * STEP_KEYS + k * G, values(h, from + k), some, c, mixed + r * width, width,
                                 g ? nothing : next);
                });
            }
        }
    }
    for (int64_t h = 0; h < heads; h++) {
        const int64_t r = h * padded;
        done(h, Queries{rows, mixed + r * width, highest + r, total + r, width});
    }
}

}  // namespace octuor::OCTUOR_ISA
