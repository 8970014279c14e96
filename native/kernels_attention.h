// Attention over pages of keys and values.
//
// A task is (sequence, block of tokens, kv head, chunk of keys). The queries of all heads that share the kv head and
// of the block's tokens meet the keys together, so that a page is read once for all of them. Where queries are few a
// task takes several kv heads, whose keys lie side by side in a page. The softmax is online
// (Milakov & Gimelshein 2018, arXiv:1805.02867): a running maximum and sum a row, never a [T, S] matrix.
//
//   many queries   kernels_attention_blocks.h: matrix products, limited by arithmetic
//   few            kernels_attention_few.h: dot products straight from the cache, limited by memory
//
// Where one block holds all tokens of a sequence, as in answers, its keys are cut into chunks of a fixed length whose
// sums are merged in order: threads share one sequence, and results do not depend on their number.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t FEW_QUERIES = 16;  // up to here keys are read as they lie; above, copying them pays
constexpr int64_t FEW_CHUNK = 256, BLOCK_CHUNK = 1024;  // least keys a task where a sequence has one block of tokens
constexpr int64_t MOST_CHUNKS = 16;                     // or one more: what merging costs

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
    int64_t b, j, heads;         // sequence, first kv head, kv heads
    int64_t first, n, from, end;  // tokens, keys
};

// A task's queries against its keys: few, or many as M. Calls done(j, queries) for each kv head.
template <class M, class T, class Done>
static void attend(const AttentionCall& call, const Work& work, bool few, float* memory, Done done) {
    const int64_t c = call.head_dim, shared = call.n_heads / call.n_kv_heads, rows = work.n * shared;
    auto keys = [&](int64_t h, int64_t p) { return rows_from<T>(call, call.keys, call.k, work.b, work.j + h, p); };
    auto values = [&](int64_t h, int64_t p) { return rows_from<T>(call, call.values, call.v, work.b, work.j + h, p); };
    auto together = [&](int64_t p) { return call.keys ? call.page_size - p % call.page_size : work.end - p; };
    auto query = [&](int64_t h, int64_t r) {
        return call.q + ((work.first + r / shared) * call.n_heads + (work.j + h) * shared + r % shared) * c;
    };
    auto position = [&](int64_t r) { return call.positions[work.first + r / shared]; };
    if (few)
        return attend_few<T>(work.heads, rows, c, work.from, work.end, call.window, keys, values, together, query,
                             position, memory, [&](int64_t h, const Queries& q) { done(work.j + h, q); });
    auto gather = [&](int64_t p, int64_t n, Gathered<T>* to) {
        to->n = n;
        for (int64_t i = 0, some; i < n; i += some) {
            some = least(together(p + i), n - i);
            const Rows<T> k = keys(0, p + i), v = values(0, p + i);
            for (int64_t l = 0; l < some; l++)
                to->keys[i + l] = k.at + l * k.stride, to->values[i + l] = v.at + l * v.stride;
        }
    };
    auto own_query = [&](int64_t r) { return query(0, r); };
    done(work.j, attend_blocks<M, T>(rows, c, work.from, work.end, call.window, gather, own_query, position, memory));
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
    int64_t block_tokens, n_blocks, chunk, first_chunk, n_chunks;
    int64_t heads;    // kv heads a task: whatever suits the threads, for it changes no result
    int64_t first_task, partial;  // where its tasks begin, and in floats the sums of its chunks

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
    plan.heads = 1;
    if (!n) return plan;
    plan.few = n * shared <= FEW_QUERIES;
    plan.block_tokens = MOST_QUERIES / shared > 1 ? MOST_QUERIES / shared : 1;
    plan.n_blocks = ceil_div(n, plan.block_tokens);
    plan.n_chunks = 1;
    if (plan.n_blocks == 1) {
        const Range seen = range_of(call.positions + call.starts[b], n);
        const int64_t least_chunk = plan.few ? FEW_CHUNK : BLOCK_CHUNK;
        plan.chunk = round_up(ceil_div(seen.most + 1, MOST_CHUNKS), least_chunk);
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
    if (plan.few) return size_t(few_floats(plan.heads, rows, c));
    return size_t(BlockScratch(rows, c, call.keys && call.cache_is_f16 ? FromF16::STEP : 1).size);
}

static Work find_work(const AttentionCall& call, const Plan& plan, int64_t b, int64_t task) {
    Work work;
    work.b = b;
    const int64_t parts = ceil_div(call.n_kv_heads, plan.heads);
    work.j = task % parts * plan.heads;
    work.heads = least(plan.heads, call.n_kv_heads - work.j);
    task /= parts;
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

// Kv heads a task: all, unless threads would be left without work.
static int64_t heads_a_task(const AttentionCall& call, int64_t n_chunks, int64_t n_threads) {
    if (n_threads == 1) return call.n_kv_heads;
    const int64_t heads = call.n_kv_heads * n_chunks / (4 * n_threads);
    return heads < 1 ? 1 : least(heads, call.n_kv_heads);
}

static void attention(Team* team, const AttentionCall* call) {
    const AttentionCall a = *call;
    auto* plans = static_cast<Plan*>(team->scratch(team, LIST_SLOT, size_t(a.n_sequences) * sizeof(Plan)));
    int64_t n_chunks = 0, n_tasks = 0, products = 0, partial_floats = 0;
    for (int64_t b = 0; b < a.n_sequences; b++) {
        plans[b] = plan_sequence(a, b);
        if (plans[b].few) n_chunks += plans[b].n_chunks;
    }
    const int64_t few_heads = heads_a_task(a, n_chunks, team->n_threads);
    size_t floats = 0;
    for (int64_t b = 0; b < a.n_sequences; b++) {
        Plan& plan = plans[b];
        const int64_t n = a.starts[b + 1] - a.starts[b];
        if (plan.few) plan.heads = few_heads;
        plan.first_task = n_tasks, plan.partial = partial_floats;
        n_tasks += plan.n_blocks * plan.n_chunks * ceil_div(a.n_kv_heads, plan.heads);
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
        auto done = [&](int64_t j, const Queries& q) {
            if (plan.n_chunks == 1) return finish(a, work.first, j, q);
            put_aside(q, a.head_dim, partial_at(a, plan, q.n, work.from / plan.chunk - plan.first_chunk, j, partials));
        };
        if (a.keys && a.cache_is_f16) attend<FromF16, f16>(a, work, plan.few, own, done);
        else attend<Single, float>(a, work, plan.few, own, done);
    });
    if (!partials) return;
    parallel(team, a.n_sequences * a.n_kv_heads, partial_floats < SMALL_WORK, [=](int64_t i, int) {
        const int64_t b = i / a.n_kv_heads;
        if (plans[b].n_chunks > 1) merge_chunks(a, plans[b], b, i % a.n_kv_heads, partials);
    });
}

}  // namespace octuor::OCTUOR_ISA
