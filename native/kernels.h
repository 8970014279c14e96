// The operations of a forward pass as a table of functions, one table per instruction set.
//
// SHAPES
//   T tokens, D dim, H query heads, K kv heads, C head_dim, E experts, A experts a token, F hidden_dim.
//   x [T, D], weights [out, in], q and out [T, H, C], k and v [T, K, C], all float32 and contiguous.
//   Weights are in one of the formats below; cached keys and values [n_pages, K, P, C] are f16 or f32.
//
// DEFINITION (src/octuor/ops/reference.py in C)
//   embed      out[t, :] = weight[tokens[t], :]
//   rms_norm   out[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * weight
//   linear     out[t, o] = sum_i x[t, i] * weight[o, i]
//   rope       (a, b) = x[t, h, (i, i + C/2)];  a' = a cos - b sin;  b' = b cos + a sin
//   attention  for each token t of sequence b, head h, with kv head j = h / (H/K):
//                for s in max(0, p - window + 1) .. p:  w[s] = q[t, h] . key[b, s, j] / sqrt(C)
//                out[t, h] = sum_s softmax(w)[s] * value[b, s, j]
//   route      the A largest logits of each row, ties to the lower index; weights = softmax of those
//   low_rank   out[t, o] += sum_r b[s][o, r] sum_i a[s][r, i] x[t, i], with s = slots[t]
//   moe        for each token t and rank a, with e = experts[t, a]:
//                hidden[f] = silu(sum_i gate[e][f, i] x[t, i]) * sum_i up[e][f, i] x[t, i]
//                out[t, o] += weights[t, a] * sum_f down[e][o, f] hidden[f]
//
// REGULARITIES
//   T may be 0 and is 1 when decoding; every other extent is at least 1 and may be odd.
//   C is even. H is a multiple of K. Nothing is a multiple of a vector width.
//   Tiled weights (q8 to q2) are padded with zeros to 64 rows x 256 inputs; rows beyond `out` are never written.
//   With a tiled weight, and with llama.cpp's blocks, the inputs are rounded to int8 per token and 256 inputs, as
//   quantize_activations does.
//   Weights of other programs keep their values to the last bit: those that their own dequantizers give.
//   avx512bf16 rounds queries, keys, values and weights of attention to bfloat16 where a sequence has two tokens or
//   more in the call and the cache is f16; sums stay float32.
//   Expert numbers, token ids and page numbers have been checked by the caller.
//   Several sequences of an attention call may be one in truth: all keys and values are written before any is read.
//   To the last bit, results do not depend on the number of threads, and a token's not on the other tokens of the call,
//   but for one thing: attention of a sequence with a single token takes another way than with two or more.
//
// EXAMPLE (Mixtral 8x7B decoding one token)
//   T 1, D 4096, H 32, K 8, C 128, E 8, A 2, F 14336: gate and up are 224 x 16 tiles, down 64 x 56.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octuor {

enum class Format : int32_t {
    f32, f16, bf16,              // plain
    q8, q6, q5, q4, q3, q2,      // tiled
    gguf_q4_0, gguf_q4_1, gguf_q5_0, gguf_q5_1, gguf_q8_0,  // llama.cpp's, rows of blocks
    gguf_q2_k, gguf_q3_k, gguf_q4_k, gguf_q5_k, gguf_q6_k, gguf_iq4_nl, gguf_iq4_xs, gguf_mxfp4,
    gptq_2, gptq_3, gptq_4, gptq_8, awq_4,  // inputs first
    f8_e4m3, int8, int2_packed, int3_packed, int4_packed, int8_packed,  // compressed-tensors', FP8 of others too
    bnb_int8, nf4, fp4,                                                 // bitsandbytes'
    hqq_1, hqq_2, hqq_3, hqq_4, hqq_8,
};

// What formats of other programs keep beside their codes; which of it, and in which shape, the format says. Strides are
// numbers from one line of an array to the next.
struct Beside {
    // Rows of blocks that lie in another order: row r begins at byte (r / n / 2) * row_strides[0] + (r / n % 2) *
    // row_strides[1] + (r % n) * row_strides[2], n = half_head (llama.cpp's wq and wk, whose heads' halves are mixed).
    int64_t half_head, row_strides[3];

    Format scale_format;        // f32, f16 or bf16; of bitsandbytes' 4 bits float32 or, with nested ones, bytes
    const void *scales, *zeros;
    const int32_t* groups;      // [in]: the group of each input; null: group_inputs side by side
    int64_t n_groups, group_inputs, group_rows;
    int64_t data_stride, scale_stride, zero_stride;
    uint32_t added;             // GPTQ's: to each word of zeros, or of 3 bits to each zero
    Format rounds_to;           // f32, f16 or bf16: what bitsandbytes and HQQ compute in
    const float* numbers;       // [16]: of codes of 4 bits
    int64_t skip, nested_skip;  // weights of the first block, scales of the first nested one, of rows before these
    const float *nested_scales, *nested_numbers;  // of scales that are bytes: of blocks of them, and [256]
    float nested_offset;
    int64_t nested_inputs;
    bool by_column;             // HQQ's: scales and zeros belong to columns of the grid
};

// A weight [out, in]; data is what the format's storage on the Python side has, 2-byte aligned or better (llama.cpp's
// at any address).
struct Matrix {
    const void* data;
    int64_t out, in;
    Format format;
    const Beside* beside = nullptr;  // null where the format has all in its data
};

// Who shares the work of one call, and memory that stays between calls. Only one call uses it at a time.
struct Team {
    void* self;
    int n_threads;
    // Calls task(context, i, thread) for i in [0, n), thread in [0, n_threads), and returns when all are done.
    void (*run)(Team* team, int64_t n, void (*task)(void* context, int64_t i, int thread), void* context);
    // Memory of at least n bytes, aligned to 64, contents undefined; the same slot again replaces it.
    void* (*scratch)(Team* team, int slot, size_t n);
};

struct AttentionCall {
    const float *q, *k, *v;  // [T, H, C], [T, K, C], [T, K, C]
    float* out;              // [T, H, C]
    int64_t n_tokens, n_heads, n_kv_heads, head_dim;
    const int32_t* positions;  // [T]
    const int32_t* starts;     // [B + 1]
    int64_t n_sequences;
    int64_t window;  // 0: none
    // The cache of this layer; keys null: sequences are whole in this call, positions count from 0.
    void *keys, *values;  // [n_pages, K, P, C]
    bool cache_is_f16;
    int64_t page_size, table_width;
    const int32_t* table;  // [B, table_width]
};

struct ExpertMatrices {
    Matrix gate, up, down;  // [F, D], [F, D], [D, F]; data null: no token has chosen it, or it is not in this call
};

struct MoeCall {
    const float* x;  // [T, D]
    float* out;      // [T, D]
    int64_t n_tokens, dim, hidden_dim;
    const int32_t* experts;  // [T, A]
    const float* weights;    // [T, A]
    int64_t n_chosen, n_experts;
    const ExpertMatrices* matrices;  // [E]
    float* partial;  // [T, A, D]: what each token's experts give, unweighted and not summed; null: into out instead
};

// What one adapter adds to a product: b a x.
struct LowRankChange {
    const float *a, *b;  // [rank, in], and b transposed [rank, out]
    int64_t rank;        // 0: nothing
};

struct LowRankCall {
    const float* x;  // [T, in]
    float* result;   // [T, out], which is added to
    int64_t n_tokens, in, out;
    const int32_t* slots;  // [T]: whose change a token gets; negative: none
    const LowRankChange* changes;
    int64_t n_slots;
};

struct RouteCall {
    const float* logits;  // [T, E]
    int64_t n_tokens, n_experts, n_chosen;
    int32_t* experts;  // [T, A]
    float* weights;    // [T, A]
};

// A loop over one instruction (or the few that stand for it), for what the machine can do at most.
struct Peak {
    const char* instruction;  // null: this set has none
    const char* feature;      // of cpu_features() that it needs beyond the set's own; null: none
    int64_t ops_per_round;
    void (*run)(int64_t rounds);
};

// 256 inputs of a matrix to a tiled format with error feedback, as quant/feedback.py's round_block.
struct RoundCall {
    const float* targets;  // [out, 256] what to round: the weights, and what earlier inputs' errors ask of them
    const float* weights;  // [out, 256]
    int64_t out;
    const float* spread;  // [256, 256] how much of input j's error is added to the target of input k > j
    const float* costs;   // [256] how much a squared difference from the target counts
    Format to;
    uint8_t* storage;  // one tile for each 64 rows
    float* errors;     // [out, 256] weights less what they were rounded to
};

struct Kernels {
    void (*embed)(const Matrix* weight, const int32_t* tokens, int64_t n_tokens, float* out);
    void (*rms_norm)(Team*, const float* x, const float* weight, int64_t n_tokens, int64_t dim, float eps, float* out);
    void (*linear)(Team*, const float* x, int64_t n_tokens, const Matrix* weight, float* out);
    // cos and sin are [T, C/2].
    void (*rope)(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads,
                 int64_t head_dim, float* out);
    void (*attention)(Team*, const AttentionCall*);
    void (*route)(const RouteCall*);
    void (*moe)(Team*, const MoeCall*);
    // out from partial, once every expert has been in a call; to the last bit what one call gives.
    void (*moe_sum)(Team*, const MoeCall*);
    void (*low_rank)(Team*, const LowRankCall*);
    void (*swiglu)(Team*, const float* gate, const float* up, int64_t n, float* out);  // silu(gate) * up
    // Plain matrix to a tiled format. Returns -1, or the least row that holds a number that is not finite.
    // importance [in]: how much the squared error of each input's weights counts; null: all alike.
    int64_t (*quantize)(Team*, const Matrix* from, Format to, const float* importance, bool thorough, uint8_t* storage);
    void (*round_block)(Team*, const RoundCall*);
    // out [out, in]: the weights themselves; to is f32, or bf16, to which they are rounded.
    void (*dequantize)(Team*, const Matrix* weight, Format to, void* out);
    const Peak *int8_peak, *f32_peak, *bf16_peak;
};

// Whether weights are fetched ahead into L2 in place of L1 on this CPU; defined in dispatch.cpp.
extern const bool FETCHES_FAR;

}  // namespace octuor
