// Attention over pages of keys and values.
//
// A task is (sequence, block of tokens, kv head, chunk of keys). The queries of all heads that share the kv head and
// of the block's tokens meet the keys together, so that a page is read once for all of them. The softmax is online
// (Milakov & Gimelshein 2018, arXiv:1805.02867): a running maximum and sum a row, never a [T, S] matrix.
//
//   many queries   kernels_attention_blocks.h: matrix products, limited by arithmetic
//   few            here: dot products straight from the cache, limited by memory
//
// Where one block holds all tokens of a sequence, as in answers, its keys are cut into chunks of a fixed length whose
// sums are merged in order: threads share one sequence, and results do not depend on their number.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t FEW_QUERIES = 16;  // up to here keys are read as they lie; above, copying them pays
constexpr int64_t UNCACHED_PAGE = 32;  // keys at a time where there are no pages
constexpr int64_t FEW_CHUNK = 512, BLOCK_CHUNK = 1024;  // keys a task where a sequence has one block of tokens

// A stretch of consecutive keys or values of one kv head, `stride` numbers from one to the next.
template <class T>
struct Rows {
    const T* at;
    int64_t stride;
};

// scores [n_rows, stride] = queries [n_rows, c] . keys, n of them. What lies `ahead` of the keys is fetched meanwhile.
template <class T>
static void score(const float* queries, int64_t n_rows, Rows<T> keys, int64_t n, int64_t c, float* scores,
                  int64_t stride, int64_t ahead) {
    constexpr int K = ROWS_AT_ONCE, N = TOKENS_AT_ONCE;
    auto block = [&]<int k_size, int n_size>(int64_t k, int64_t r) {
        const T* a[k_size];
        const float* b[n_size];
        for (int i = 0; i < k_size; i++) a[i] = keys.at + (k + i) * keys.stride;
        for (int i = 0; i < n_size; i++) b[i] = queries + (r + i) * c;
        float out[k_size][n_size];
        dots<k_size, n_size>(a, b, c, out, r ? 0 : ahead);
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

// mixed [R, c] = mixed * keep [R] + weights [R, stride] times values, n of them. What lies `ahead` is fetched meanwhile.
template <int R, class T>
static inline void mix(const float* weights, int64_t stride, Rows<T> values, int64_t n, int64_t c, const float* keep,
                       float* mixed, int64_t ahead) {
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
            for (int v = 0; v < v_size; v++) {
                if (ahead && (v * W * sizeof(T)) % LINE == 0) prefetch(row + v * W + ahead);
                value[v] = left < W ? load_n(row, left) : load(row + v * W);
            }
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
    const int64_t whole = n / W * W;
    float top = *highest;
    if (whole) {
        F32 tops = load(scores);
        for (int64_t k = W; k < whole; k += W) tops = max(load(scores + k), tops);
        const float most = largest(tops);
        top = most > top ? most : top;
    }
    for (int64_t k = whole; k < n; k++) top = scores[k] > top ? scores[k] : top;
    F32 sums = set1(0.0f);
    for (int64_t i = 0; i < whole; i += W) {
        F32 e = exp2(sub(load(scores + i), set1(top)));
        store(scores + i, e);
        sums = add(sums, e);
    }
    float rest = 0;
    if (whole < n) {
        store_n(scores + whole, exp2(sub(load_n(scores + whole, n - whole), set1(top))), n - whole);
        for (int64_t k = whole; k < n; k++) rest += scores[k];
    }
    const float keep = exp2f(*highest - top);
    *total = *total * keep + sum(sums) + rest;
    *highest = top;
    return keep;
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

// What a task is to do.
struct Work {
    int64_t b, j, first, n;  // sequence, kv head, first token, tokens
    int64_t from, end;       // keys
};

// Few queries: keys and values of type T are met where they lie, page by page.
template <class T>
static Queries attend_few(const AttentionCall& call, const Work& work, float* memory) {
    const int64_t c = call.head_dim, shared = call.n_heads / call.n_kv_heads, rows = work.n * shared;
    const int64_t stride = call.keys ? call.page_size : UNCACHED_PAGE;
    float *queries = memory, *mixed = queries + rows * c, *scores = mixed + rows * c;
    float *highest = scores + rows * stride, *total = highest + rows, *keep = total + rows;
    const int32_t* positions = call.positions + work.first;
    const float scale = LOG2_E / sqrtf(float(c));
    for (int64_t t = 0; t < work.n; t++) {
        const float* from = call.q + ((work.first + t) * call.n_heads + work.j * shared) * c;
        for (int64_t i = 0; i < shared * c; i++) queries[t * shared * c + i] = from[i] * scale;
    }
    memset(mixed, 0, size_t(rows * c) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) highest[r] = LOWEST_SCORE, total[r] = 0.0f;
    for (int64_t from = work.from; from < work.end;) {
        const int64_t keys = least(work.end, (from / stride + 1) * stride) - from;
        const Rows<T> key_rows = rows_from<T>(call, call.keys, call.k, work.b, work.j, from);
        const Rows<T> values = rows_from<T>(call, call.values, call.v, work.b, work.j, from);
        int64_t ahead = 0;  // of a key or value in the cache: those of the next page, which no hardware foresees
        if (call.keys && from + keys < work.end)
            ahead = rows_from<T>(call, call.keys, call.k, work.b, work.j, from + keys).at - key_rows.at;
        score(queries, rows, key_rows, keys, c, scores, stride, ahead);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t p = positions[r / shared], low = call.window ? p - call.window + 1 - from : 0;
            keep[r] = online_softmax(scores + r * stride, keys, low, p + 1 - from, highest + r, total + r);
        }
        constexpr int R = ROWS_AT_ONCE;
        int64_t r = 0;
        for (; r + R <= rows; r += R)
            mix<R>(scores + r * stride, stride, values, keys, c, keep + r, mixed + r * c, r ? 0 : ahead);
        for (; r < rows; r++)
            mix<1>(scores + r * stride, stride, values, keys, c, keep + r, mixed + r * c, r ? 0 : ahead);
        from += keys;
    }
    return {rows, mixed, highest, total, c};
}

// Many queries.
template <class M, class T>
static Queries attend_many(const AttentionCall& call, const Work& work, float* memory) {
    const int64_t c = call.head_dim, shared = call.n_heads / call.n_kv_heads;
    auto gather = [&](int64_t p, int64_t n, Gathered<T>* to) {
        to->n = n;
        for (int64_t i = 0; i < n;) {
            const Rows<T> keys = rows_from<T>(call, call.keys, call.k, work.b, work.j, p + i);
            const Rows<T> values = rows_from<T>(call, call.values, call.v, work.b, work.j, p + i);
            const int64_t to_page_end = call.keys ? call.page_size - (p + i) % call.page_size : n;
            for (int64_t l = 0; l < to_page_end && i < n; l++, i++)
                to->keys[i] = keys.at + l * keys.stride, to->values[i] = values.at + l * values.stride;
        }
    };
    auto query = [&](int64_t r) {
        return call.q + ((work.first + r / shared) * call.n_heads + work.j * shared + r % shared) * c;
    };
    auto position = [&](int64_t r) { return call.positions[work.first + r / shared]; };
    return attend_blocks<M, T>(work.n * shared, c, work.from, work.end, call.window, gather, query, position, memory);
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

static void write_caches(Team* team, const AttentionCall& a) {
    parallel(team, a.n_tokens, a.n_tokens * a.n_kv_heads * a.head_dim < SMALL_WORK, [=](int64_t t, int) {
        int64_t b = 0;
        while (a.starts[b + 1] <= t) b++;
        if (a.cache_is_f16) {
            write_cache(a, b, t, a.k, static_cast<f16*>(a.keys));
            write_cache(a, b, t, a.v, static_cast<f16*>(a.values));
        } else {
            write_cache(a, b, t, a.k, static_cast<float*>(a.keys));
            write_cache(a, b, t, a.v, static_cast<float*>(a.values));
        }
    });
}

// How the work of one sequence is cut: blocks of tokens, or chunks of keys of its only block.
struct Plan {
    bool few;
    int64_t first_task, block_tokens, n_blocks, chunk, first_chunk, n_chunks;
    int64_t partial;  // where the sums of its chunks begin, in floats

    int64_t rows(const AttentionCall& call, int64_t b) const {
        return (call.starts[b + 1] - call.starts[b]) * (call.n_heads / call.n_kv_heads);
    }
};

struct Range {
    int64_t least, most;
};

static Range range_of(const int32_t* positions, int64_t n) {
    Range r = {positions[0], positions[0]};
    for (int64_t t = 1; t < n; t++) {
        r.least = least(r.least, positions[t]);
        r.most = positions[t] > r.most ? positions[t] : r.most;
    }
    return r;
}

// The oldest key that a token at position p sees.
static inline int64_t first_seen(const AttentionCall& call, int64_t p) {
    return call.window && p >= call.window ? p - call.window + 1 : 0;
}

static Plan plan_sequence(const AttentionCall& call, int64_t b) {
    const int64_t shared = call.n_heads / call.n_kv_heads, n = call.starts[b + 1] - call.starts[b];
    Plan plan = {};
    if (!n) return plan;
    plan.few = n * shared <= FEW_QUERIES;
    plan.block_tokens = MOST_QUERIES / shared > 1 ? MOST_QUERIES / shared : 1;
    plan.n_blocks = ceil_div(n, plan.block_tokens);
    plan.n_chunks = 1;
    if (plan.n_blocks == 1) {
        const Range seen = range_of(call.positions + call.starts[b], n);
        plan.chunk = plan.few ? FEW_CHUNK : BLOCK_CHUNK;
        plan.first_chunk = first_seen(call, seen.least) / plan.chunk;
        plan.n_chunks = seen.most / plan.chunk + 1 - plan.first_chunk;
    }
    return plan;
}

// The sums of one chunk, [rows][c] and then highest and total, n_kv_heads of them one after the other.
static inline float* partial_at(const AttentionCall& call, const Plan& plan, int64_t rows, int64_t chunk, int64_t j,
                                float* partials) {
    return partials + plan.partial + (chunk * call.n_kv_heads + j) * rows * (call.head_dim + 2);
}

static inline float* out_at(const AttentionCall& call, int64_t first, int64_t j, int64_t r) {
    const int64_t shared = call.n_heads / call.n_kv_heads;
    return call.out + ((first + r / shared) * call.n_heads + j * shared + r % shared) * call.head_dim;
}

// Sums to means.
static void finish(const AttentionCall& call, int64_t first, int64_t j, const Queries& q) {
    for (int64_t r = 0; r < q.n; r++) {
        const float* from = q.mixed + r * q.mixed_stride;
        float* to = out_at(call, first, j, r);
        const float scale = 1.0f / q.total[r];
        for (int64_t i = 0; i < call.head_dim; i++) to[i] = from[i] * scale;
    }
}

static void put_aside(const Queries& q, int64_t c, float* to) {
    for (int64_t r = 0; r < q.n; r++) memcpy(to + r * c, q.mixed + r * q.mixed_stride, size_t(c) * sizeof(float));
    memcpy(to + q.n * c, q.highest, size_t(q.n) * sizeof(float));
    memcpy(to + q.n * (c + 1), q.total, size_t(q.n) * sizeof(float));
}

// All chunks of kv head j, in order.
static void merge_chunks(const AttentionCall& call, const Plan& plan, int64_t b, int64_t j, float* partials) {
    const int64_t c = call.head_dim, rows = plan.rows(call, b);
    for (int64_t r = 0; r < rows; r++) {
        float top = LOWEST_SCORE, total = 0.0f;
        for (int64_t k = 0; k < plan.n_chunks; k++) {
            const float highest = partial_at(call, plan, rows, k, j, partials)[rows * c + r];
            top = highest > top ? highest : top;
        }
        float* to = out_at(call, call.starts[b], j, r);
        for (int64_t i = 0; i < c; i++) to[i] = 0.0f;
        for (int64_t k = 0; k < plan.n_chunks; k++) {
            const float* from = partial_at(call, plan, rows, k, j, partials);
            const float scale = exp2f(from[rows * c + r] - top);
            total += from[rows * (c + 1) + r] * scale;
            for (int64_t i = 0; i < c; i++) to[i] += from[r * c + i] * scale;
        }
        const float scale = 1.0f / total;
        for (int64_t i = 0; i < c; i++) to[i] *= scale;
    }
}

#ifdef __AVX512BF16__
using FromF16 = Pairs;  // what many queries of an f16 cache are multiplied as
#else
using FromF16 = Single;
#endif

static size_t floats_for(const AttentionCall& call, const Plan& plan, int64_t n) {
    const int64_t c = call.head_dim, rows = least(n, plan.block_tokens) * (call.n_heads / call.n_kv_heads);
    if (plan.few) return size_t(rows * (2 * c + (call.keys ? call.page_size : UNCACHED_PAGE) + 3));
    return size_t(BlockScratch(rows, c, call.keys && call.cache_is_f16 ? FromF16::STEP : 1).size);
}

static Work find_work(const AttentionCall& call, const Plan& plan, int64_t b, int64_t task) {
    Work work;
    work.b = b;
    work.j = task % call.n_kv_heads;
    task /= call.n_kv_heads;
    const int64_t block = plan.n_blocks - 1 - task / plan.n_chunks, chunk = plan.first_chunk + task % plan.n_chunks;
    work.first = call.starts[b] + block * plan.block_tokens;  // the last first: it sees most
    work.n = least(plan.block_tokens, call.starts[b + 1] - work.first);
    const Range seen = range_of(call.positions + work.first, work.n);
    work.from = first_seen(call, seen.least), work.end = seen.most + 1;
    if (plan.n_chunks > 1) {
        work.from = work.from > chunk * plan.chunk ? work.from : chunk * plan.chunk;
        work.end = least(work.end, (chunk + 1) * plan.chunk);
    }
    return work;
}

static void attention(Team* team, const AttentionCall* call) {
    const AttentionCall a = *call;
    auto* plans = static_cast<Plan*>(team->scratch(team, LIST_SLOT, size_t(a.n_sequences) * sizeof(Plan)));
    int64_t n_tasks = 0, products = 0, partial_floats = 0;
    size_t floats = 0;
    for (int64_t b = 0; b < a.n_sequences; b++) {
        const int64_t n = a.starts[b + 1] - a.starts[b];
        Plan plan = plan_sequence(a, b);
        plan.first_task = n_tasks, plan.partial = partial_floats;
        n_tasks += plan.n_blocks * plan.n_chunks * a.n_kv_heads;
        plans[b] = plan;
        if (!n) continue;
        if (plan.n_chunks > 1) partial_floats += plan.n_chunks * n * a.n_heads * (a.head_dim + 2);
        products += n * (a.positions[a.starts[b + 1] - 1] + 1) * a.n_heads * a.head_dim;
        const size_t wanted = (floats_for(a, plan, n) + 15) / 16 * 16;
        floats = wanted > floats ? wanted : floats;
    }
    if (a.keys) write_caches(team, a);
    float* partials = nullptr;
    if (partial_floats)
        partials = static_cast<float*>(team->scratch(team, HIDDEN_PLAIN_SLOT, size_t(partial_floats) * sizeof(float)));
    auto* memory = reinterpret_cast<float*>(thread_scratch(team, floats * sizeof(float)));
    parallel(team, n_tasks, products < SMALL_WORK, [=](int64_t i, int thread) {
        int64_t b = a.n_sequences - 1;
        while (plans[b].first_task > i || !plans[b].n_blocks) b--;
        const Plan& plan = plans[b];
        const Work work = find_work(a, plan, b, i - plan.first_task);
        float* own = memory + size_t(thread) * floats;
        const bool halves = a.keys && a.cache_is_f16;
        Queries (*run)(const AttentionCall&, const Work&, float*);
        if (plan.few) run = halves ? attend_few<f16> : attend_few<float>;
        else run = halves ? attend_many<FromF16, f16> : attend_many<Single, float>;
        const Queries done = run(a, work, own);
        if (plan.n_chunks == 1) return finish(a, work.first, work.j, done);
        const int64_t chunk = (i - plan.first_task) / a.n_kv_heads % plan.n_chunks;
        put_aside(done, a.head_dim, partial_at(a, plan, done.n, chunk, work.j, partials));
    });
    if (!partials) return;
    parallel(team, a.n_sequences * a.n_kv_heads, partial_floats < SMALL_WORK, [=](int64_t i, int) {
        const int64_t b = i / a.n_kv_heads;
        if (plans[b].n_chunks > 1) merge_chunks(a, plans[b], b, i % a.n_kv_heads, partials);
    });
}

}  // namespace octuor::OCTUOR_ISA
