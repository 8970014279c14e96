// The experts: route, and the two passes of moe over `product`.
#pragma once

namespace octuor::OCTUOR_ISA {

// The tokens of each expert that is here, one expert after the other.
struct Groups {
    int32_t *starts, *used;  // [E + 1], [n_used]: expert e has entries starts[e] to starts[e + 1]
    int32_t *tokens, *places;  // [T * A]; a place is token * A + rank
    float* weights;          // [T * A]
    int64_t n_used, most;    // most: the largest group
};

static Groups group_tokens(Team* team, const MoeCall& call) {
    const int64_t n = call.n_tokens * call.n_chosen, n_experts = call.n_experts;
    auto* memory = static_cast<int32_t*>(team->scratch(team, LIST_SLOT, size_t(2 * n_experts + 1 + 3 * n) * 4));
    int32_t* tokens = memory + 2 * n_experts + 1;
    Groups groups = {memory, memory + n_experts + 1, tokens, tokens + n, reinterpret_cast<float*>(tokens + 2 * n), 0, 0};
    int32_t entry = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        groups.starts[e] = entry;
        if (!call.matrices[e].gate.data) continue;
        for (int64_t i = 0; i < n; i++)
            if (call.experts[i] == e) {
                groups.tokens[entry] = int32_t(i / call.n_chosen), groups.places[entry] = int32_t(i);
                groups.weights[entry++] = call.weights[i];
            }
        if (entry == groups.starts[e]) continue;
        groups.used[groups.n_used++] = e;
        if (entry - groups.starts[e] > groups.most) groups.most = entry - groups.starts[e];
    }
    groups.starts[n_experts] = entry;
    return groups;
}

// The inputs in the order of the groups, so that an expert's tokens are side by side: [T * A, D].
static float* sort_tokens(Team* team, const MoeCall& call, const Groups& groups) {
    const int64_t n = groups.starts[call.n_experts], row = call.dim;
    auto* sorted = static_cast<float*>(team->scratch(team, SORTED_SLOT, size_t(n * row) * sizeof(float)));
    for (int64_t i = 0; i < n; i++)
        memcpy(sorted + i * row, call.x + groups.tokens[i] * row, size_t(row) * sizeof(float));
    return sorted;
}

// x * sigmoid(x) * up
static inline F32 swiglu(F32 x, F32 up) { return mul(div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))), up); }

static inline void add_weighted(const float* x, float weight, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i++) out[i] += weight * x[i];
}

// All tokens of the call at once: gate, up and SwiGLU in one pass over F, then down in one over D.
static void moe_pass(Team* team, const MoeCall& call) {
    const int64_t d = call.dim, f = call.hidden_dim;
    const Groups groups = group_tokens(team, call);
    const int64_t n = groups.starts[call.n_experts];
    if (!n) return;
    bool inputs_rounded = false, inputs_plain = false, hidden_rounded = false, hidden_plain = false;
    int64_t spare_floats = 0;
    for (int64_t u = 0; u < groups.n_used; u++) {
        const ExpertMatrices& m = call.matrices[groups.used[u]];
        (is_rounded(m.gate.format) ? inputs_rounded : inputs_plain) = true;
        (is_rounded(m.up.format) ? inputs_rounded : inputs_plain) = true;
        (is_rounded(m.down.format) ? hidden_rounded : hidden_plain) = true;
        const Matrix* all[] = {&m.gate, &m.up, &m.down};
        for (const Matrix* w : all)
            if (turned_spare(*w) > spare_floats) spare_floats = turned_spare(*w);
    }
    Tokens x = {inputs_plain ? sort_tokens(team, call, groups) : nullptr, {}, d};
    if (inputs_rounded) x.rounded = round_tokens(team, call.x, groups.tokens, n, d);
    const int64_t f_blocks = ceil_div(f, INPUTS), token_blocks = ceil_div(groups.most, TOKEN_BLOCK);
    float* plain = nullptr;
    if (hidden_plain)
        plain = static_cast<float*>(team->scratch(team, HIDDEN_PLAIN_SLOT, size_t(n * f) * sizeof(float)));
    Tokens hidden_tokens = {plain, {}, f};
    if (hidden_rounded) hidden_tokens.rounded = Rounded::allocate(team, HIDDEN_ROUNDED_SLOT, n, f);
    const bool small = n * d * f < SMALL_WORK;
    constexpr int64_t ACC = TOKEN_BLOCK * ROWS, HIDDEN = TOKEN_BLOCK * INPUTS;
    const int64_t floats = 2 * ACC + HIDDEN + spare_floats;
    float* memory = reinterpret_cast<float*>(thread_scratch(team, size_t(floats) * sizeof(float)));

    parallel(team, groups.n_used * f_blocks * token_blocks, small, [=](int64_t i, int thread) {
        float *gates = memory + thread * floats, *ups = gates + ACC, *hidden = ups + ACC, *spare = hidden + HIDDEN;
        const int32_t e = groups.used[i / (f_blocks * token_blocks)];
        const int64_t block = i / token_blocks % f_blocks, first = groups.starts[e] + i % token_blocks * TOKEN_BLOCK;
        const int64_t n_here = least(TOKEN_BLOCK, groups.starts[e + 1] - first);
        if (n_here <= 0) return;
        const ExpertMatrices& m = call.matrices[e];
        const int64_t width = least(INPUTS, f - block * INPUTS);
        for (int64_t from = 0; from < width; from += ROWS) {
            const int64_t row = block * INPUTS + from;
            product(m.gate, row, x, {first, n_here}, gates, spare, row_address(m.up, row));
            const uint8_t* then = from + ROWS < width ? row_address(m.gate, row + ROWS) : nullptr;
            product(m.up, row, x, {first, n_here}, ups, spare, then);
            for (int64_t t = 0; t < n_here; t++)
                for (int64_t r = 0; r < ROWS; r += W)
                    store(hidden + t * INPUTS + from + r, swiglu(load(gates + t * ROWS + r), load(ups + t * ROWS + r)));
        }
        for (int64_t t = 0; t < n_here; t++) {
            const float* row = hidden + t * INPUTS;
            if (is_rounded(m.down.format)) round_inputs(row, width, hidden_tokens.rounded.at(block, first + t));
            else memcpy(plain + (first + t) * f + block * INPUTS, row, size_t(width) * sizeof(float));
        }
    });

    parallel(team, ceil_div(d, ROWS), small, [=](int64_t i, int thread) {
        float *acc = memory + thread * floats, *spare = acc + 2 * ACC + HIDDEN;
        const int64_t row = i * ROWS, n_rows = least(ROWS, d - row);
        for (int64_t t = 0; t < call.n_tokens && !call.partial; t++)
            memset(call.out + t * d + row, 0, size_t(n_rows) * sizeof(float));
        for (int64_t u = 0; u < groups.n_used; u++) {
            const int32_t e = groups.used[u];
            const uint8_t* then = nullptr;
            if (u + 1 < groups.n_used) then = row_address(call.matrices[groups.used[u + 1]].down, row);
            for (int64_t first = groups.starts[e]; first < groups.starts[e + 1]; first += TOKEN_BLOCK) {
                const int64_t n_here = least(TOKEN_BLOCK, groups.starts[e + 1] - first);
                product(call.matrices[e].down, row, hidden_tokens, {first, n_here}, acc, spare, then);
                for (int64_t t = 0; t < n_here; t++) {
                    const float* from = acc + t * ROWS;
                    if (call.partial)
                        memcpy(call.partial + groups.places[first + t] * d + row, from, size_t(n_rows) * sizeof(float));
                    else
                        add_weighted(from, groups.weights[first + t], n_rows, call.out + groups.tokens[first + t] * d + row);
                }
            }
        }
    });
}

static void moe(Team* team, const MoeCall* call) {
    constexpr int64_t PASS = 1024;  // tokens: bounds the memory for hidden states
    for (int64_t first = 0; first < call->n_tokens; first += PASS) {
        MoeCall part = *call;
        part.n_tokens = least(PASS, call->n_tokens - first);
        part.x += first * call->dim;
        if (call->partial) part.partial += first * call->n_chosen * call->dim;
        else part.out += first * call->dim;
        part.experts += first * call->n_chosen;
        part.weights += first * call->n_chosen;
        moe_pass(team, part);
    }
}

// What moe_pass makes of all experts at once, out of its parts: each token's experts are added in ascending order.
static void moe_sum(Team* team, const MoeCall* call) {
    const int64_t d = call->dim, n_chosen = call->n_chosen;
    parallel(team, call->n_tokens, call->n_tokens * n_chosen * d < SMALL_WORK, [=](int64_t t, int) {
        const int32_t* experts = call->experts + t * n_chosen;
        memset(call->out + t * d, 0, size_t(d) * sizeof(float));
        int32_t last = -1;
        for (int64_t done = 0; done < n_chosen;) {
            int32_t next = INT32_MAX;
            for (int64_t a = 0; a < n_chosen; a++)
                if (experts[a] > last && experts[a] < next) next = experts[a];
            for (int64_t a = 0; a < n_chosen; a++) {
                if (experts[a] != next) continue;
                const int64_t place = t * n_chosen + a;
                add_weighted(call->partial + place * d, call->weights[place], d, call->out + t * d);
                done++;
            }
            last = next;
        }
    });
}

// Softmax over the largest n_chosen logits. A NaN ranks below every number.
static void route(const RouteCall* call) {
    for (int64_t t = 0; t < call->n_tokens; t++) {
        const float* logits = call->logits + t * call->n_experts;
        int32_t* experts = call->experts + t * call->n_chosen;
        float *weights = call->weights + t * call->n_chosen, total = 0;
        for (int64_t a = 0; a < call->n_chosen; a++) {
            int32_t best = -1;
            for (int32_t e = 0; e < call->n_experts; e++) {
                bool taken = false;
                for (int64_t b = 0; b < a; b++) taken |= experts[b] == e;
                if (taken) continue;
                if (best < 0 || logits[e] > logits[best] || (logits[best] != logits[best] && logits[e] == logits[e]))
                    best = e;
            }
            experts[a] = best;
            weights[a] = expf(logits[best] - logits[experts[0]]);
            total += weights[a];
        }
        for (int64_t a = 0; a < call->n_chosen; a++) weights[a] /= total;
    }
}

}  // namespace octuor::OCTUOR_ISA
