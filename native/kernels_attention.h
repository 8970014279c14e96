// Attention over pages of keys and values.
//
// A task is (sequence, block of tokens, kv head, chunks of keys). The queries of all heads that share the kv head and
// of the block's tokens meet the keys together, so that a page is read once for all of them. The softmax is online
// (Milakov & Gimelshein 2018, arXiv:1805.02867): a running maximum and sum a row, never a [T, S] matrix.
//
//   one token   kernels_attention_few.h: dot products straight from the cache, limited by memory; a task takes several
//               kv heads, whose keys lie side by side in a page
//   several     kernels_attention_blocks.h: matrix products, limited by arithmetic
//
// A token's result depends on its position and on what it sees, to the last bit: neither on the number of threads, nor
// on the other sequences of the call, nor, beside at least one other token of its own, on how a prompt is cut. So a
// long context is summed in chunks of keys that begin at places of their own, and these are merged in order. For one
// token a chunk's length follows from the position; for several all chunks are BLOCK_CHUNK keys. Who works out a chunk
// changes nothing: tasks of their own share a sequence among threads, else one task merges as it goes on. Keys that a
// token does not see add exactly nothing to it.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t BLOCK_CHUNK = 1024;                 // keys, of several tokens
constexpr int64_t FEW_CHUNK = 256, MOST_CHUNKS = 16;  // of one token: least keys, and how many there are at most
static_assert(BLOCK_CHUNK % BLOCK_KEYS == 0);

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
    int64_t b, j, heads;          // sequence, first kv head, kv heads
    int64_t first, n, from, end;  // tokens, keys
};

// The query of row r for kv head j: rows are a task's tokens, each with the heads that share the kv head.
static inline const float* query_at(const AttentionCall& call, int64_t first, int64_t j, int64_t r) {
    const int64_t shared = call.n_heads / call.n_kv_heads;
    return call.q + ((first + r / shared) * call.n_heads + j * shared + r % shared) * call.head_dim;
}

// One token's queries against its keys. Calls done(j, queries) for each kv head.
template <class T, class Done>
static void attend_one(const AttentionCall& call, const Work& work, float* memory, Done done) {
    auto keys = [&](int64_t h, int64_t p) { return rows_from<T>(call, call.keys, call.k, work.b, work.j + h, p); };
    auto values = [&](int64_t h, int64_t p) { return rows_from<T>(call, call.values, call.v, work.b, work.j + h, p); };
    auto together = [&](int64_t p) { return call.keys ? call.page_size - p % call.page_size : work.end - p; };
    auto query = [&](int64_t h, int64_t r) { return query_at(call, work.first, work.j + h, r); };
    attend_few<T>(work.heads, call.n_heads / call.n_kv_heads, call.head_dim, work.from, work.end, keys, values,
                  together, query, memory, [&](int64_t h, const Queries& q) { done(work.j + h, q); });
}

// Several tokens' queries against the keys of one chunk, multiplied as M.
template <class M, class T>
static Queries attend_chunk(const AttentionCall& call, const Work& work, float* memory) {
    const int64_t shared = call.n_heads / call.n_kv_heads;
    auto gather = [&](int64_t p, int64_t n, Gathered<T>* to) {
        to->n = n;
        const int64_t unseen = work.from > p ? work.from - p : 0;
        for (int64_t i = unseen, some; i < n; i += some) {
            some = call.keys ? least(call.page_size - (p + i) % call.page_size, n - i) : n - i;
            const Rows<T> k = rows_from<T>(call, call.keys, call.k, work.b, work.j, p + i);
            const Rows<T> v = rows_from<T>(call, call.values, call.v, work.b, work.j, p + i);
            for (int64_t l = 0; l < some; l++)
                to->keys[i + l] = k.at + l * k.stride, to->values[i + l] = v.at + l * v.stride;
        }
        for (int64_t i = 0; i < unseen; i++) to->keys[i] = to->keys[unseen], to->values[i] = to->values[unseen];
    };
    auto query = [&](int64_t r) { return query_at(call, work.first, work.j, r); };
    auto position = [&](int64_t r) { return call.positions[work.first + r / shared]; };
    return attend_blocks<M, T>(work.n * shared, call.head_dim, work.from, work.end, call.window, gather, query,
                               position, memory);
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

// The last of n that begins at or before i; they rise.
template <class First>
static inline int64_t last_from(int64_t n, int64_t i, First first) {
    int64_t least = 0;
    while (n > 1) {
        const int64_t half = n / 2;
        if (first(least + half) <= i) least += half, n -= half;
        else n = half;
    }
    return least;
}

static void write_caches(Team* team, const AttentionCall& a) {
    parallel(team, a.n_tokens, a.n_tokens * a.n_kv_heads * a.head_dim < SMALL_WORK, [=](int64_t t, int) {
        const int64_t b = last_from(a.n_sequences, t, [&](int64_t i) { return a.starts[i]; });
        if (a.cache_is_f16) {
            write_cache(a, b, t, a.k, static_cast<f16*>(a.keys));
            write_cache(a, b, t, a.v, static_cast<f16*>(a.values));
        } else {
            write_cache(a, b, t, a.k, static_cast<float*>(a.keys));
            write_cache(a, b, t, a.v, static_cast<float*>(a.values));
        }
    });
}

// How the work of one sequence is cut: into blocks of tokens, or into the chunks of its only block.
struct Plan {
    bool few;  // one token
    int64_t block_tokens, n_blocks;
    int64_t chunk, first_chunk, n_chunks;  // keys of each; tasks that they make of a block, 1 where it is not cut
    int64_t heads;                         // kv heads a task: whatever suits the threads
    int64_t first_task, partial;           // where its tasks begin, and in floats the sums of its chunks

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

static Plan plan_sequence(const AttentionCall& call, int64_t b, int n_threads) {
    const int64_t shared = call.n_heads / call.n_kv_heads, n = call.starts[b + 1] - call.starts[b];
    Plan plan = {};
    plan.heads = 1;
    if (!n) return plan;
    plan.few = n == 1;
    plan.block_tokens = MOST_QUERIES / shared > 1 ? MOST_QUERIES / shared : 1;
    plan.n_blocks = ceil_div(n, plan.block_tokens);
    plan.n_chunks = 1;
    const Range seen = range_of(call.positions + call.starts[b], n);
    plan.chunk = plan.few ? round_up(ceil_div(seen.most + 1, MOST_CHUNKS), FEW_CHUNK) : BLOCK_CHUNK;
    if (plan.few || (plan.n_blocks == 1 && n_threads > 1)) {
        plan.first_chunk = first_seen(call, seen.least) / plan.chunk;
        plan.n_chunks = seen.most / plan.chunk + 1 - plan.first_chunk;
    }
    return plan;
}

// Sums of n queries that lie together: [n][c], then their highest and total.
static inline Queries sums_at(float* at, int64_t n, int64_t c) { return {n, at, at + n * c, at + n * (c + 1), c}; }
static inline int64_t sums_floats(int64_t n, int64_t c) { return n * (c + 2); }

// The sums of one chunk, those of n_kv_heads one after the other.
static inline float* partial_at(const AttentionCall& call, const Plan& plan, int64_t rows, int64_t chunk, int64_t j,
                                float* partials) {
    return partials + plan.partial + (chunk * call.n_kv_heads + j) * sums_floats(rows, call.head_dim);
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

// Adds the sums of the next chunk to those of the chunks before it.
static void merge(const Queries& q, int64_t c, float* to) {
    float *highest = to + q.n * c, *total = highest + q.n;
    for (int64_t r = 0; r < q.n; r++) {
        const float top = q.highest[r] > highest[r] ? q.highest[r] : highest[r];
        const float keep = exp2f(highest[r] - top), scale = exp2f(q.highest[r] - top);
        highest[r] = top, total[r] = total[r] * keep + q.total[r] * scale;
        float* mixed = to + r * c;
        const float* from = q.mixed + r * q.mixed_stride;
        for (int64_t i = 0; i < c; i++) mixed[i] = mixed[i] * keep + from[i] * scale;
    }
}

// All chunks of kv head j of sequence b.
static void merge_chunks(const AttentionCall& call, const Plan& plan, int64_t b, int64_t j, float* partials) {
    const int64_t c = call.head_dim, rows = plan.rows(call, b);
    float* first = partial_at(call, plan, rows, 0, j, partials);
    for (int64_t k = 1; k < plan.n_chunks; k++)
        merge(sums_at(partial_at(call, plan, rows, k, j, partials), rows, c), c, first);
    finish(call, call.starts[b], j, sums_at(first, rows, c));
}

#ifdef __AVX512BF16__
using FromF16 = Pairs;  // what many queries of an f16 cache are multiplied as
#else
using FromF16 = Single;
#endif

// A task's memory: scratch and, of a block, the sums of its chunks so far.
static int64_t scratch_floats(const AttentionCall& call, const Plan& plan, int64_t n) {
    const int64_t c = call.head_dim, rows = least(n, plan.block_tokens) * (call.n_heads / call.n_kv_heads);
    if (plan.few) return few_floats(plan.heads, rows, c);
    return BlockScratch(rows, c, call.keys && call.cache_is_f16 ? FromF16::STEP : 1).size;
}
static int64_t floats_for(const AttentionCall& call, const Plan& plan, int64_t n) {
    const int64_t rows = least(n, plan.block_tokens) * (call.n_heads / call.n_kv_heads);
    return scratch_floats(call, plan, n) + (plan.few ? 0 : sums_floats(rows, call.head_dim));
}

// A block's tokens against their keys, chunk by chunk, of which a task of a cut block has one. Calls done(queries).
template <class M, class T, class Done>
static void attend_block(const AttentionCall& call, const Work& work, float* memory, float* sums, Done done) {
    const int64_t c = call.head_dim;
    Work part = work;
    for (bool first = true; part.from < work.end; part.from = part.end, first = false) {
        part.end = least(work.end, (part.from / BLOCK_CHUNK + 1) * BLOCK_CHUNK);
        const Queries q = attend_chunk<M, T>(call, part, memory);
        if (first && part.end == work.end) return done(q);
        if (first) put_aside(q, c, sums);
        else merge(q, c, sums);
    }
    done(sums_at(sums, work.n * (call.n_heads / call.n_kv_heads), c));
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
    int64_t n_chunks = 0, n_tasks = 0, products = 0, partial_floats = 0, floats = 0;
    for (int64_t b = 0; b < a.n_sequences; b++) {
        plans[b] = plan_sequence(a, b, team->n_threads);
        if (plans[b].few) n_chunks += plans[b].n_chunks;
    }
    const int64_t few_heads = heads_a_task(a, n_chunks, team->n_threads);
    for (int64_t b = 0; b < a.n_sequences; b++) {
        Plan& plan = plans[b];
        const int64_t n = a.starts[b + 1] - a.starts[b];
        if (plan.few) plan.heads = few_heads;
        plan.first_task = n_tasks, plan.partial = partial_floats;
        n_tasks += plan.n_blocks * plan.n_chunks * ceil_div(a.n_kv_heads, plan.heads);
        if (!n) continue;
        if (plan.n_chunks > 1) partial_floats += plan.n_chunks * sums_floats(n * a.n_heads, a.head_dim);
        products += n * (a.positions[a.starts[b + 1] - 1] + 1) * a.n_heads * a.head_dim;
        const int64_t wanted = round_up(floats_for(a, plan, n), 16);
        floats = wanted > floats ? wanted : floats;
    }
    if (a.keys) write_caches(team, a);  // all of them: an entry may see what another of this call has written
    float* partials = nullptr;
    if (partial_floats)
        partials = static_cast<float*>(team->scratch(team, HIDDEN_PLAIN_SLOT, size_t(partial_floats) * sizeof(float)));
    auto* memory = reinterpret_cast<float*>(thread_scratch(team, size_t(floats) * sizeof(float)));
    parallel(team, n_tasks, products < SMALL_WORK, [=](int64_t i, int thread) {
        const int64_t b = last_from(a.n_sequences, i, [&](int64_t at) { return plans[at].first_task; });
        const Plan& plan = plans[b];
        const Work work = find_work(a, plan, b, i - plan.first_task);
        float* own = memory + thread * floats;
        auto done = [&](int64_t j, const Queries& q) {
            if (plan.n_chunks == 1) return finish(a, work.first, j, q);
            put_aside(q, a.head_dim, partial_at(a, plan, q.n, work.from / plan.chunk - plan.first_chunk, j, partials));
        };
        const bool is_f16 = a.keys && a.cache_is_f16;
        if (plan.few) return is_f16 ? attend_one<f16>(a, work, own, done) : attend_one<float>(a, work, own, done);
        float* sums = own + scratch_floats(a, plan, a.starts[b + 1] - a.starts[b]);
        auto done_block = [&](const Queries& q) { done(work.j, q); };
        if (is_f16) attend_block<FromF16, f16>(a, work, own, sums, done_block);
        else attend_block<Single, float>(a, work, own, sums, done_block);
    });
    if (!partials) return;
    parallel(team, a.n_sequences * a.n_kv_heads, partial_floats < SMALL_WORK, [=](int64_t i, int) {
        const int64_t b = i / a.n_kv_heads;
        if (plans[b].n_chunks > 1) merge_chunks(a, plans[b], b, i % a.n_kv_heads, partials);
    });
}

}  // namespace octuor::OCTUOR_ISA
