// Attention over pages of keys and values, and the small operations around it: rms_norm, rope.
//
// A task is (sequence, kv head, block of tokens). The queries of all heads that share the kv head and of a few
// tokens meet each page together, so a page is widened to float32 once for all of them. The softmax is online
// (Milakov & Gimelshein 2018, arXiv:1805.02867): a running maximum and sum a row, never a [T, S] matrix.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t MOST_ROWS = 32;   // queries that share a page; more only where one kv head has more heads
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

// A stretch of consecutive keys or values of one kv head, float32, `stride` floats from one to the next.
struct Rows {
    const float* at;
    int64_t stride;
};

template <class T>
static void widen_rows(const T* from, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store_n(to + i, load_n(from + i, n - i), n - i);
}

// Keys or values from position `from` on, all in one page, of kv head j of sequence b.
static inline Rows page_rows(const AttentionCall& call, const void* pool, const float* fresh, int64_t b, int64_t j,
                             int64_t from, int64_t n, float* buffer) {
    const int64_t c = call.head_dim;
    if (!call.keys) return {fresh + ((call.starts[b] + from) * call.n_kv_heads + j) * c, call.n_kv_heads * c};
    const int64_t page = call.table[b * call.table_width + from / call.page_size];
    const int64_t at = ((page * call.n_kv_heads + j) * call.page_size + from % call.page_size) * c;
    if (!call.cache_is_f16) return {static_cast<const float*>(pool) + at, c};
    widen_rows(static_cast<const f16*>(pool) + at, n * c, buffer);
    return {buffer, c};
}

// scores [n_rows, stride] = queries [n_rows, c] . keys, n of them
static void score(const float* queries, int64_t n_rows, Rows keys, int64_t n, int64_t c, float* scores, int64_t stride) {
    constexpr int R = ROWS_AT_ONCE, N = TOKENS_AT_ONCE;
    auto block = [&]<int r_size, int n_size>(int64_t r, int64_t k) {
        const float *a[r_size], *b[n_size];
        for (int i = 0; i < r_size; i++) a[i] = queries + (r + i) * c;
        for (int i = 0; i < n_size; i++) b[i] = keys.at + (k + i) * keys.stride;
        float out[r_size][n_size];
        dots<r_size, n_size>(a, b, c, out);
        for (int i = 0; i < r_size; i++)
            for (int l = 0; l < n_size; l++) scores[(r + i) * stride + k + l] = out[i][l];
    };
    int64_t k = 0;
    for (; k + N <= n; k += N) {
        int64_t r = 0;
        for (; r + R <= n_rows; r += R) block.template operator()<R, N>(r, k);
        for (; r < n_rows; r++) block.template operator()<1, N>(r, k);
    }
    for (; k < n; k++)
        for (int64_t r = 0; r < n_rows; r++) block.template operator()<1, 1>(r, k);
}

// mixed [R, c] += weights [R, stride] times values, n of them
template <int R>
static inline void mix(const float* weights, int64_t stride, Rows values, int64_t n, int64_t c, float* mixed) {
    constexpr int V = 2;
    int64_t i = 0;
    auto columns = [&]<int v_size>(int64_t left) {
        F32 sums[R][v_size];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < v_size; v++)
                sums[r][v] = left < W ? load_n(mixed + r * c + i, left) : load(mixed + r * c + i + v * W);
        for (int64_t k = 0; k < n; k++) {
            F32 value[v_size];
            const float* row = values.at + k * values.stride + i;
            for (int v = 0; v < v_size; v++) value[v] = left < W ? load_n(row, left) : load(row + v * W);
            for (int r = 0; r < R; r++) {
                F32 weight = set1(weights[r * stride + k]);
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
    for (int64_t i = 0; i < n; i++)
        if (i < from || i >= to) scores[i] = MINUS_INFINITY;
    float top = *highest;
    for (int64_t i = 0; i < n; i++) top = scores[i] > top ? scores[i] : top;
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
    s.floats = size_t(s.most_rows * (2 * call.head_dim + s.page + 2) + 2 * s.page * call.head_dim) + 64;
    return s;
}

// Tokens first to first + n of the flat axis, all of sequence b, against kv head j.
static void attend(const AttentionCall& call, const AttentionShape& shape, int64_t b, int64_t j, int64_t first,
                   int64_t n, float* memory) {
    const int64_t c = call.head_dim, rows = n * shape.shared, stride = shape.page;
    float *queries = memory, *mixed = queries + shape.most_rows * c, *scores = mixed + shape.most_rows * c;
    float *highest = scores + shape.most_rows * stride, *total = highest + shape.most_rows;
    float *key_buffer = total + shape.most_rows, *value_buffer = key_buffer + shape.page * c;
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
        score(queries, rows, page_rows(call, call.keys, call.k, b, j, from, keys, key_buffer), keys, c, scores, stride);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t p = positions[r / shape.shared];
            const int64_t low = call.window ? p - call.window + 1 - from : 0;
            const float keep = online_softmax(scores + r * stride, keys, low, p + 1 - from, highest + r, total + r);
            if (keep != 1.0f)
                for (int64_t i = 0; i < c; i++) mixed[r * c + i] *= keep;
        }
        const Rows values = page_rows(call, call.values, call.v, b, j, from, keys, value_buffer);
        int64_t r = 0;
        for (; r + ROWS_AT_ONCE <= rows; r += ROWS_AT_ONCE)
            mix<ROWS_AT_ONCE>(scores + r * stride, stride, values, keys, c, mixed + r * c);
        for (; r < rows; r++) mix<1>(scores + r * stride, stride, values, keys, c, mixed + r * c);
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
    const int64_t page = call.table[b * call.table_width + p / call.page_size];
    for (int64_t j = 0; j < call.n_kv_heads; j++) {
        const float* row = from + (t * call.n_kv_heads + j) * c;
        T* to = pool + ((page * call.n_kv_heads + j) * call.page_size + p % call.page_size) * c;
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
        attend(a, shape, b, task % a.n_kv_heads, first, n, memory + size_t(thread) * shape.floats);
    });
}

}  // namespace octuor::OCTUOR_ISA
