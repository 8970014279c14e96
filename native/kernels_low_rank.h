// Low-rank changes of several adapters, each for its own tokens; and SwiGLU by itself, for experts that are changed.
#pragma once

namespace octuor::OCTUOR_ISA {

static inline float dot(const float* x, const float* y, int64_t n) {
    const int64_t whole = n / W * W;
    F32 sums[2] = {set1(0.0f), set1(0.0f)};
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W)
        for (int j = 0; j < 2; j++) sums[j] = fma(load(x + i + j * W), load(y + i + j * W), sums[j]);
    for (; i < n; i += W)
        sums[0] = i < whole ? fma(load(x + i), load(y + i), sums[0]) : fma(load_n(x + i, n - i), load_n(y + i, n - i), sums[0]);
    return sum(add(sums[0], sums[1]));
}

// out[0..n) += sum_j weights[j] * rows[j, 0..n), rows `stride` apart
static inline void add_rows(const float* weights, const float* rows, int64_t n_rows, int64_t stride, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        F32 total = load(out + i);
        for (int64_t j = 0; j < n_rows; j++) total = fma(set1(weights[j]), load(rows + j * stride + i), total);
        store(out + i, total);
    }
    if (i < n) {
        F32 total = load_n(out + i, n - i);
        for (int64_t j = 0; j < n_rows; j++) total = fma(set1(weights[j]), load_n(rows + j * stride + i, n - i), total);
        store_n(out + i, total, n - i);
    }
}

// Two passes: all tokens' inputs to their ranks, then from there to the outputs.
static void low_rank(Team* team, const LowRankCall* call) {
    constexpr int64_t RANKS = 8, OUTPUTS = 512;  // of one task
    int64_t most = 0;
    for (int64_t s = 0; s < call->n_slots; s++)
        if (call->changes[s].rank > most) most = call->changes[s].rank;
    if (!most) return;
    float* inner = static_cast<float*>(team->scratch(team, HIDDEN_PLAIN_SLOT, size_t(call->n_tokens * most) * sizeof(float)));
    const int64_t n_ranks = ceil_div(most, RANKS), n_outputs = ceil_div(call->out, OUTPUTS);
    const LowRankCall c = *call;
    const bool small = c.n_tokens * most * (c.in + c.out) < SMALL_WORK;
    parallel(team, c.n_tokens * n_ranks, small, [=](int64_t i, int) {
        const int64_t t = i / n_ranks, first = i % n_ranks * RANKS;
        if (c.slots[t] < 0) return;
        const LowRankChange& change = c.changes[c.slots[t]];
        for (int64_t r = first; r < least(first + RANKS, change.rank); r++)
            inner[t * most + r] = dot(c.x + t * c.in, change.a + r * c.in, c.in);
    });
    parallel(team, c.n_tokens * n_outputs, small, [=](int64_t i, int) {
        const int64_t t = i / n_outputs, first = i % n_outputs * OUTPUTS;
        if (c.slots[t] < 0) return;
        const LowRankChange& change = c.changes[c.slots[t]];
        add_rows(inner + t * most, change.b + first, change.rank, c.out, least(OUTPUTS, c.out - first),
                 c.result + t * c.out + first);
    });
}

static void swiglu_rows(Team* team, const float* gate, const float* up, int64_t n, float* out) {
    constexpr int64_t PIECE = 4096;
    parallel(team, ceil_div(n, PIECE), n < SMALL_WORK, [=](int64_t i, int) {
        const int64_t last = least(n, (i + 1) * PIECE);
        int64_t at = i * PIECE;
        for (; at + W <= last; at += W) store(out + at, swiglu(load(gate + at), load(up + at)));
        if (at < last) store_n(out + at, swiglu(load_n(gate + at, last - at), load_n(up + at, last - at)), last - at);
    });
}

}  // namespace octuor::OCTUOR_ISA
