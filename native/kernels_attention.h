// Attention over pages of keys and values, and the small operations around it: rms_norm, rope.
//
// A task is (sequence, kv head, block of tokens). The queries of all heads that share the kv head and of a few
// tokens meet each page together, so a page is read once for all of them. The softmax is online
// (Milakov & Gimelshein 2018, arXiv:1805.02867): a running maximum and sum a row, never a [T, S] matrix.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t MOST_ROWS = 32;  // queries that share a page; more only where one kv head has more heads
constexpr int64_t UNCACHED_PAGE = 32;
constexpr float MINUS_INFINITY = -__builtin_inff();

// e^x within 2 ulp or so; 0 below -87, and no larger than e^88.
static inline F32 exp(F32 x) {
    constexpr float LOWEST = -87.3f;
    F32 kept = min(max(x, set1(LOWEST)), set1(88.0f));
    F32 n = round(mul(kept, set1(1.44269504f)));
    // ln 2 in two parts, the first with few bits so that n times it is exact (Cody & Waite)
    F32 r = fnma(n, set1(-2.12194440e-4f), fnma(n, set1(0.693359375f), kept));
    F32 p = set1(1.98756912e-4f);  // minimax coefficients of Cephes expf
    p = fma(p, r, set1(1.39819995e-3f));
    p = fma(p, r, set1(8.33345177e-3f));
    p = fma(p, r, set1(4.16657962e-2f));
    p = fma(p, r, set1(1.66666654e-1f));
    p = fma(p, r, set1(0.5f));
    F32 y = add(fma(p, mul(r, r), r), set1(1.0f));
    return zero_below(mul(y, power_of_2(n)), x, LOWEST);
}

static void rms_norm(Team* team, const float* x, const float* weight, int64_t n_tokens, int64_t dim, float eps,
                     float* out) {
    parallel(team, n_tokens, n_tokens * dim < SMALL_WORK, [=](int64_t t, int) {
        const float* row = x + t * dim;
        float* to = out + t * dim;
        const int64_t whole = dim / W * W;
        F32 squares[2] = {set1(0.0f), set1(0.0f)};
        int64_t i = 0;
        for (; i + 2 * W <= dim; i += 2 * W)
            for (int j = 0; j < 2; j++) squares[j] = fma(load(row + i + j * W), load(row + i + j * W), squares[j]);
        for (; i < dim; i += W) {
            F32 part = i < whole ? load(row + i) : load_n(row + i, dim - i);
            squares[0] = fma(part, part, squares[0]);
        }
        const F32 scale = set1(1.0f / sqrtf(sum(add(squares[0], squares[1])) / float(dim) + eps));
        for (i = 0; i < whole; i += W) store(to + i, mul(mul(load(row + i), scale), load(weight + i)));
        if (i < dim) {
            F32 part = mul(mul(load_n(row + i, dim - i), scale), load_n(weight + i, dim - i));
            store_n(to + i, part, dim - i);
        }
    });
}

static void rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads,
                 int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    for (int64_t t = 0; t < n_tokens; t++, cos += half, sin += half)
        for (int64_t h = 0; h < n_heads; h++, x += head_dim, out += head_dim) {
            int64_t i = 0;
            for (; i + W <= half; i += W) {
                F32 a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
                store(out + i, fnma(b, s, mul(a, c)));
                store(out + half + i, fma(a, s, mul(b, c)));
            }
            for (; i < half; i++) {
                out[i] = x[i] * cos[i] - x[half + i] * sin[i];
                out[half + i] = x[half + i] * cos[i] + x[i] * sin[i];
            }
        }
}

// A stretch of consecutive keys or values of one kv head, `stride` numbers from one to the next.
template <class T>
struct Rows {
    const T* at;
    int64_t stride;
};

// scores [n_rows, stride] = queries [n_rows, c] . keys, n of them
template <class T>
static void score(const float* queries, int64_t n_rows, Rows<T> keys, int64_t n, int64_t c, float* scores,
                  int64_t stride) {
    constexpr int K = ROWS_AT_ONCE, N = TOKENS_AT_ONCE;
    auto block = [&]<int k_size, int n_size>(int64_t k, int64_t r) {
        const T* a[k_size];
        const float* b[n_size];
        for (int i = 0; i < k_size; i++) a[i] = keys.at + (k + i) * keys.stride;
        for (int i = 0; i < n_size; i++) b[i] = queries + (r + i) * c;
        float out[k_size][n_size];
        dots<k_size, n_size>(a, b, c, out);
        for (int i = 0; i < k_size; i++)
            for (int l = 0; l < n_size; l++) scores[(r + l) * stride + k + i] = out[i][l];
    };
    int64_t k = 0;
    for (; k + K <= n; k += K) {
        int64_t r = 0;
        for (; r + N <= n_rows; r += N) block.template operator()<K, N>(k, r);
        for (; r < n_rows; r++) block.template operator()<K, 1>(k, r);
    }
    for (; k < n; k++)
        for (int64_t r = 0; r < n_rows; r++) block.template operator()<1, 1>(k, r);
}

// mixed [R, c] = mixed * keep [R] + weights [R, stride] times values, n of them
template <int R, class T>
static inline void mix(const float* weights, int64_t stride, Rows<T> values, int64_t n, int64_t c, const float* keep,
                       float* mixed) {
    constexpr int V = TOKENS_AT_ONCE;
    int64_t i = 0;
    auto columns = [&]<int v_size>(int64_t left) {
        F32 sums[R][v_size];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < v_size; v++) {
                const float* at = mixed + r * c + i;
                sums[r][v] = mul(left < W ? load_n(at, left) : load(at + v * W), set1(keep[r]));
            }
        for (int64_t k = 0; k < n; k++) {
            F32 value[v_size];
            const T* row = values.at + k * values.stride + i;
            for (int v = 0; v < v_size; v++) value[v] = left < W ? load_n(row, left) : load(row + v * W);
            for (int r = 0; r < R; r++) {
                const F32 weight = set1(weights[r * stride + k]);
                for (int v = 0; v < v_size; v++) sums[r][v] = fma(weight, value[v], sums[r][v]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < v_size; v++) {
                if (left < W) store_n(mixed + r * c + i, sums[r][v], left);
                else store(mixed + r * c + i + v * W, sums[r][v]);
            }
    };
    for (; i + V * W <= c; i += V * W) columns.template operator()<V>(V * W);
    for (; i + W <= c; i += W) columns.template operator()<1>(W);
    if (i < c) columns.template operator()<1>(c - i);
}

// One row of scores to weights: masked outside [from, to), maximum and sum carried on. Returns what the row's
// earlier sums have to be multiplied by.
static inline float online_softmax(float* scores, int64_t n, int64_t from, int64_t to, float* highest, float* total) {
    for (int64_t k = 0; k < least(from, n); k++) scores[k] = MINUS_INFINITY;
    for (int64_t k = to > 0 ? to : 0; k < n; k++) scores[k] = MINUS_INFINITY;
    float top = *highest;
    if (n >= W) {
        F32 tops = load(scores + n - W);  // the last may overlap those before
        for (int64_t k = 0; k + W < n; k += W) tops = max(load(scores + k), tops);
        const float most = largest(tops);
        top = most > top ? most : top;
    } else {
        for (int64_t k = 0; k < n; k++) top = scores[k] > top ? scores[k] : top;
    }
    if (top == MINUS_INFINITY) {  // nothing seen yet
        memset(scores, 0, size_t(n) * sizeof(float));
        return 1.0f;
    }
    F32 sums = set1(0.0f);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        F32 e = exp(sub(load(scores + i), set1(top)));
        store(scores + i, e);
        sums = add(sums, e);
    }
    float rest = 0;
    if (i < n) {
        store_n(scores + i, exp(sub(load_n(scores + i, n - i), set1(top))), n - i);
        for (; i < n; i++) rest += scores[i];
    }
    const float keep = expf(*highest - top);
    *total = *total * keep + sum(sums) + rest;
    *highest = top;
    return keep;
}

struct AttentionShape {
    int64_t shared, block_tokens, most_rows, page;  // heads a kv head; tokens and queries a task; keys a step
    size_t floats;                                  // of scratch a thread
};

static AttentionShape attention_shape(const AttentionCall& call) {
    AttentionShape s;
    s.shared = call.n_heads / call.n_kv_heads;
    s.block_tokens = MOST_ROWS / s.shared > 1 ? MOST_ROWS / s.shared : 1;
    s.most_rows = s.block_tokens * s.shared;
    s.page = call.keys ? call.page_size : UNCACHED_PAGE;
    s.floats = size_t(s.most_rows * (2 * call.head_dim + s.page + 3)) + 64;
    return s;
}

// Where position p of sequence b lies in a cache's pool, for kv head j.
static inline int64_t cached_at(const AttentionCall& call, int64_t b, int64_t j, int64_t p) {
    const int64_t page = call.table[b * call.table_width + p / call.page_size];
    return ((page * call.n_kv_heads + j) * call.page_size + p % call.page_size) * call.head_dim;
}

// Keys or values of kv head j of sequence b from position p on: in the pool, or fresh where there is no cache.
template <class T>
static inline Rows<T> rows_from(const AttentionCall& call, const void* pool, const float* fresh, int64_t b, int64_t j,
                                int64_t p) {
    const int64_t c = call.head_dim;
    if (call.keys) return {static_cast<const T*>(pool) + cached_at(call, b, j, p), c};
    const float* at = fresh + ((call.starts[b] + p) * call.n_kv_heads + j) * c;
    return {reinterpret_cast<const T*>(at), call.n_kv_heads * c};
}

// Brings a page nearer while the one before it is worked on: pages lie apart, so no hardware foresees them.
template <class T>
static inline void fetch_page(const AttentionCall& call, const void* pool, int64_t b, int64_t j, int64_t p) {
    const auto* page = reinterpret_cast<const uint8_t*>(static_cast<const T*>(pool) + cached_at(call, b, j, p));
    for (int64_t i = 0; i < call.page_size * call.head_dim * int64_t(sizeof(T)); i += LINE) prefetch(page + i);
}

// Tokens first to first + n of the flat axis, all of sequence b, against kv head j, whose keys and values are T.
template <class T>
static void attend(const AttentionCall& call, const AttentionShape& shape, int64_t b, int64_t j, int64_t first,
                   int64_t n, float* memory) {
    const int64_t c = call.head_dim, rows = n * shape.shared, stride = shape.page;
    float *queries = memory, *mixed = queries + shape.most_rows * c, *scores = mixed + shape.most_rows * c;
    float *highest = scores + shape.most_rows * stride, *total = highest + shape.most_rows,
          *keep = total + shape.most_rows;
    const int32_t* positions = call.positions + first;
    const float scale = 1.0f / sqrtf(float(c));
    int64_t oldest = positions[0], newest = positions[0];
    for (int64_t t = 0; t < n; t++) {
        oldest = least(oldest, positions[t]);
        newest = newest > positions[t] ? newest : positions[t];
        const float* from = call.q + ((first + t) * call.n_heads + j * shape.shared) * c;
        for (int64_t i = 0; i < shape.shared * c; i++) queries[t * shape.shared * c + i] = from[i] * scale;
    }
    memset(mixed, 0, size_t(rows * c) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) highest[r] = MINUS_INFINITY, total[r] = 0.0f;
    int64_t from = call.window && oldest >= call.window ? oldest - call.window + 1 : 0;
    while (from <= newest) {
        const int64_t keys = least(newest + 1, (from / shape.page + 1) * shape.page) - from;
        const bool more = call.keys && from + keys <= newest;
        if (more) fetch_page<T>(call, call.keys, b, j, from + keys);
        score(queries, rows, rows_from<T>(call, call.keys, call.k, b, j, from), keys, c, scores, stride);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t p = positions[r / shape.shared];
            const int64_t low = call.window ? p - call.window + 1 - from : 0;
            keep[r] = online_softmax(scores + r * stride, keys, low, p + 1 - from, highest + r, total + r);
        }
        if (more) fetch_page<T>(call, call.values, b, j, from + keys);
        const Rows<T> values = rows_from<T>(call, call.values, call.v, b, j, from);
        constexpr int R = ROWS_AT_ONCE;
        int64_t r = 0;
        for (; r + R <= rows; r += R) mix<R>(scores + r * stride, stride, values, keys, c, keep + r, mixed + r * c);
        for (; r < rows; r++) mix<1>(scores + r * stride, stride, values, keys, c, keep + r, mixed + r * c);
        from += keys;
    }
    for (int64_t r = 0; r < rows; r++) {
        const int64_t t = r / shape.shared, h = j * shape.shared + r % shape.shared;
        float* to = call.out + ((first + t) * call.n_heads + h) * c;
        for (int64_t i = 0; i < c; i++) to[i] = mixed[r * c + i] / total[r];
    }
}

template <class T>
static void write_cache(const AttentionCall& call, int64_t b, int64_t t, const float* from, T* pool) {
    const int64_t c = call.head_dim, p = call.positions[t];
    for (int64_t j = 0; j < call.n_kv_heads; j++) {
        const float* row = from + (t * call.n_kv_heads + j) * c;
        T* to = pool + cached_at(call, b, j, p);
        int64_t i = 0;
        for (; i + W <= c; i += W) store(to + i, load(row + i));
        if (i < c) store_n(to + i, load_n(row + i, c - i), c - i);
    }
}

static void attention(Team* team, const AttentionCall* call) {
    const AttentionCall a = *call;
    const AttentionShape shape = attention_shape(a);
    auto* firsts = static_cast<int64_t*>(team->scratch(team, LIST_SLOT, size_t(a.n_sequences + 1) * sizeof(int64_t)));
    int64_t n_tasks = 0, work = 0;
    for (int64_t b = 0; b < a.n_sequences; b++) {  // tasks of sequence b are firsts[b] to firsts[b + 1]
        firsts[b] = n_tasks;
        const int64_t n = a.starts[b + 1] - a.starts[b];
        n_tasks += ceil_div(n, shape.block_tokens) * a.n_kv_heads;
        if (n) work += n * (a.positions[a.starts[b + 1] - 1] + 1) * a.n_heads * a.head_dim;
        if (!a.keys) continue;
        for (int64_t t = a.starts[b]; t < a.starts[b + 1]; t++) {
            if (a.cache_is_f16) {
                write_cache(a, b, t, a.k, static_cast<f16*>(a.keys));
                write_cache(a, b, t, a.v, static_cast<f16*>(a.values));
            } else {
                write_cache(a, b, t, a.k, static_cast<float*>(a.keys));
                write_cache(a, b, t, a.v, static_cast<float*>(a.values));
            }
        }
    }
    firsts[a.n_sequences] = n_tasks;
    auto* memory = reinterpret_cast<float*>(thread_scratch(team, shape.floats * sizeof(float)));
    parallel(team, n_tasks, work < SMALL_WORK, [=](int64_t i, int thread) {
        int64_t b = 0;
        while (firsts[b + 1] <= i) b++;
        const int64_t task = i - firsts[b], first = a.starts[b] + task / a.n_kv_heads * shape.block_tokens;
        const int64_t n = least(shape.block_tokens, a.starts[b + 1] - first);
        auto* run = a.keys && a.cache_is_f16 ? attend<f16> : attend<float>;
        run(a, shape, b, task % a.n_kv_heads, first, n, memory + size_t(thread) * shape.floats);
    });
}

}  // namespace octuor::OCTUOR_ISA
