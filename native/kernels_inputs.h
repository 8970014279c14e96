// What products are given: tokens side by side, their inputs as they are and rounded, and threads to share the work.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t TOKEN_BLOCK = 256;     // tokens that share a pass over 64 rows: their int8 inputs stay in L2
constexpr int64_t FEW_TOKENS = 4;        // up to here weights are read once, as stored; above, preparing them pays
constexpr int64_t SMALL_WORK = 1 << 16;  // products; below this the threads' wake-up costs more than they save

enum Scratch { INPUTS_SLOT, SORTED_SLOT, HIDDEN_ROUNDED_SLOT, HIDDEN_PLAIN_SLOT, THREAD_SLOT, LIST_SLOT };

static inline bool is_tiled(Format format) { return format >= Format::q8 && format <= Format::q2; }
static inline bool is_blocks(Format format) { return format >= Format::gguf_q4_0 && format <= Format::gguf_mxfp4; }
static inline bool is_turned(Format format) { return format >= Format::gptq_2 && format <= Format::awq_4; }
// Whether products take the inputs rounded to int8.
static inline bool is_rounded(Format format) { return is_tiled(format) || is_blocks(format); }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Runs f(i, thread) for i in [0, n): on the team, or here when it is not worth their while.
template <class F>
static inline void parallel(Team* team, int64_t n, bool small, F f) {
    if (n == 1 || small) {
        for (int64_t i = 0; i < n; i++) f(i, 0);
        return;
    }
    team->run(team, n, [](void* context, int64_t i, int thread) { (*static_cast<F*>(context))(i, thread); }, &f);
}

// Memory for each thread: thread i's begins at i times n bytes.
static inline uint8_t* thread_scratch(Team* team, size_t n) {
    return static_cast<uint8_t*>(team->scratch(team, THREAD_SLOT, n * size_t(team->n_threads)));
}

template <class T>
static void widen_row(const T* from, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store_n(to + i, load_n(from + i, n - i), n - i);
}

// The bits of the largest magnitude of 256 numbers.
static inline int32_t magnitude_bits(const float* x) {
    I32 magnitude = set1_i(0);
    for (int64_t i = 0; i < INPUTS; i += W) magnitude = max_magnitude(magnitude, load(x + i));
    return largest_i(magnitude);
}

// Rounds n (1 to 256) inputs of one token as quantize_activations does.
static inline void round_inputs(const float* x, int64_t n, Activations to) {
    alignas(64) float padded[INPUTS] = {};
    if (n < INPUTS) {
        memcpy(padded, x, size_t(n) * sizeof(float));
        x = padded;
    }
    const int32_t bits = magnitude_bits(x);
    float largest_input;
    memcpy(&largest_input, &bits, 4);
    const float scale = largest_input / 127.0f;
    float inverse = 1.0f / scale;
    if (!(inverse <= 3.402823466e38f)) inverse = 0.0f;
    for (int64_t i = 0; i < INPUTS; i += W)
        store_i8(to.codes + i, min(max(mul(load(x + i), set1(inverse)), set1(-127.0f)), set1(127.0f)));
    int32_t all = 0;
    for (int64_t g = 0; g < GROUPS; g++) {
        const int8_t* codes = to.codes + g * GROUP;
        int32_t first = 0, second = 0;
        for (int64_t i = 0; i < GROUP; i += 4) first += codes[i] + codes[i + 1], second += codes[i + 2] + codes[i + 3];
        to.group_starts[g] = group_start(-8 * first, -8 * second);
        to.group_sums[g] = int16_t(first + second);
        all += first + second;
    }
    *to.exact_starts = exact_start(all);
    *to.scales = scale;
    if (OPENS_TILES) to.open->set(to.codes, to.group_starts);
}

// n tokens of width inputs, rounded: a column of Activations for each 256 inputs.
struct Rounded {
    Activations columns;
    int64_t n;
    Activations at(int64_t column, int64_t t) const { return columns.from(column * n + t); }

    static Rounded allocate(Team* team, int slot, int64_t n, int64_t width) {
        const int64_t all = n * ceil_div(width, INPUTS);
        constexpr int64_t bytes = INPUTS + (4 + 2) * GROUPS + 4 + 4 + (OPENS_TILES ? sizeof(OpenInputs) : 0);
        auto* codes = static_cast<int8_t*>(team->scratch(team, slot, size_t(all * bytes + SPARE_TOKENS * INPUTS)));
        auto* group_starts = reinterpret_cast<int32_t*>(codes + all * INPUTS);
        int32_t* exact_starts = group_starts + all * GROUPS;
        auto* scales = reinterpret_cast<float*>(exact_starts + all);
        auto* group_sums = reinterpret_cast<int16_t*>(scales + all);
        auto* open = reinterpret_cast<OpenInputs*>(group_sums + all * GROUPS);
        return {{codes, group_starts, exact_starts, scales, group_sums, open}, n};
    }
};

// The inputs of a product: n tokens of width floats, and the same rounded.
struct Tokens {
    const float* plain;  // [n, width]; null: no weight asks for it
    Rounded rounded;     // where a weight asks for it: is_rounded
    int64_t width;
};

// Rounds n rows of x: the rows of the list, or the first n where it is null.
static Rounded round_tokens(Team* team, const float* x, const int32_t* list, int64_t n, int64_t width) {
    const Rounded to = Rounded::allocate(team, INPUTS_SLOT, n, width);
    parallel(team, n, n * width < SMALL_WORK, [=](int64_t t, int) {
        const float* row = x + (list ? list[t] : t) * width;
        for (int64_t b = 0; b * INPUTS < width; b++)
            round_inputs(row + b * INPUTS, least(INPUTS, width - b * INPUTS), to.at(b, t));
    });
    return to;
}

// Consecutive tokens of a Tokens.
struct Span {
    int64_t first, n;
};

// Calls f.operator()<N>(t) for the tokens t to t + N of every block, as few blocks of up to MOST as will do and as even
// as can be: a block of one cannot keep the multipliers busy.
template <int MOST = 4, class F>
static inline void by_token_count(int64_t n, F f) {
    static_assert(MOST <= 6);
    int64_t t = 0;
    for (int64_t blocks = ceil_div(n, MOST); blocks > 0; blocks--) {
        const int64_t here = ceil_div(n - t, blocks);
        switch (here) {
            case 1: f.template operator()<1>(t); break;
            case 2: f.template operator()<2>(t); break;
            case 3: f.template operator()<3>(t); break;
            case 4: f.template operator()<4>(t); break;
            case 5: f.template operator()<least(5, MOST)>(t); break;
            case 6: f.template operator()<least(6, MOST)>(t); break;
        }
        t += here;
    }
}

}  // namespace octuor::OCTUOR_ISA
