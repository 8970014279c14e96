// Random matrices in the formats of other programs, as native/matrix.h makes them from Python's arrays, and the checks
// that are theirs: decoding is the same to the last bit everywhere, products are those of what was decoded.
#pragma once

#include "compare.h"

namespace {

struct Foreign {
    const char* name;
    Format format;
    bool rounds;          // whether products round inputs to int8
    int64_t block_inputs = 0, block_bytes = 0;  // of llama.cpp's
    std::vector<int64_t> scales_at = {};        // where a block has float16 scales
    int bits = 0;
    bool ordered = false;  // inputs in any order of groups
};
const Foreign FOREIGN[] = {
    {"gguf-q4_0", Format::gguf_q4_0, true, 32, 18, {0}},
    {"gguf-q4_1", Format::gguf_q4_1, true, 32, 20, {0, 2}},
    {"gguf-q5_0", Format::gguf_q5_0, true, 32, 22, {0}},
    {"gguf-q5_1", Format::gguf_q5_1, true, 32, 24, {0, 2}},
    {"gguf-q8_0", Format::gguf_q8_0, true, 32, 34, {0}},
    {"gguf-q2_k", Format::gguf_q2_k, true, 256, 84, {80, 82}},
    {"gguf-q3_k", Format::gguf_q3_k, true, 256, 110, {108}},
    {"gguf-q4_k", Format::gguf_q4_k, true, 256, 144, {0, 2}},
    {"gguf-q5_k", Format::gguf_q5_k, true, 256, 176, {0, 2}},
    {"gguf-q6_k", Format::gguf_q6_k, true, 256, 210, {208}},
    {"gguf-iq4_nl", Format::gguf_iq4_nl, true, 32, 18, {0}},
    {"gguf-iq4_xs", Format::gguf_iq4_xs, true, 256, 136, {0}},
    {"gguf-mxfp4", Format::gguf_mxfp4, true, 32, 17},
    {"gptq-2", Format::gptq_2, false, 0, 0, {}, 2},
    {"gptq-3", Format::gptq_3, false, 0, 0, {}, 3},
    {"gptq-4", Format::gptq_4, false, 0, 0, {}, 4},
    {"gptq-4 in order", Format::gptq_4, false, 0, 0, {}, 4, true},
    {"gptq-8", Format::gptq_8, false, 0, 0, {}, 8},
    {"awq-4", Format::awq_4, false, 0, 0, {}, 4},
    {"f8_e4m3", Format::f8_e4m3, false},
    {"int8", Format::int8, false},
    {"int2-packed", Format::int2_packed, false, 0, 0, {}, 2},
    {"int3-packed", Format::int3_packed, false, 0, 0, {}, 3},
    {"int4-packed", Format::int4_packed, false, 0, 0, {}, 4},
    {"int4-packed in order", Format::int4_packed, false, 0, 0, {}, 4, true},
    {"int8-packed", Format::int8_packed, false, 0, 0, {}, 8},
    {"bnb-int8", Format::bnb_int8, false},
    {"nf4", Format::nf4, false},
    {"fp4 nested", Format::fp4, false, 0, 0, {}, 0, true},
    {"hqq-1", Format::hqq_1, false, 0, 0, {}, 1},
    {"hqq-2", Format::hqq_2, false, 0, 0, {}, 2},
    {"hqq-3", Format::hqq_3, false, 0, 0, {}, 3},
    {"hqq-4", Format::hqq_4, false, 0, 0, {}, 4},
    {"hqq-4 by columns", Format::hqq_4, false, 0, 0, {}, 4, true},
    {"hqq-8", Format::hqq_8, false, 0, 0, {}, 8},
};

// Sums of some hundred products in float32, in another order, of weights that are not centred.
constexpr double FLOAT32 = 8e-6;

Bytes random_bytes(int64_t n) {
    Bytes bytes(static_cast<size_t>(n));
    for (uint8_t& b : bytes) b = uint8_t(engine());
    return bytes;
}

// Keeps an array beside the weight and gives its place.
template <class T = void>
const T* keep(Weight& w, Bytes bytes) {
    w.parts.push_back(std::move(bytes));
    return reinterpret_cast<const T*>(w.parts.back().data());
}

// n numbers of about that size, in f32, f16 or bf16.
Bytes numbers(Format format, int64_t n, float size) {
    Floats x = normals(n);
    for (float& v : x) v *= size;
    return plain_storage(FORMATS[int(format)], x);
}

const void* words(Weight& w, int64_t n) { return keep(w, random_bytes(4 * n)); }

const int32_t* any_order(Weight& w, int64_t in, int64_t group) {
    std::vector<int32_t> groups;
    for (int64_t i = 0; i < in; i++) groups.push_back(int32_t(i / group));
    std::shuffle(groups.begin(), groups.end(), engine);
    Bytes bytes(size_t(4 * in));
    std::memcpy(bytes.data(), groups.data(), bytes.size());
    return keep<int32_t>(w, std::move(bytes));
}

void make_blocks(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    const int64_t n = out * in / row.block_inputs;
    w.storage = random_bytes(n * row.block_bytes);
    for (int64_t i = 0; i < n; i++) {
        uint8_t* block = w.storage.data() + i * row.block_bytes;
        for (int64_t at : row.scales_at) {  // about 2^-10, of either sign
            const auto bits = uint16_t((4 + engine() % 2) << 10 | engine() % 1024 | (engine() & 0x8000));
            std::memcpy(block + at, &bits, 2);
        }
        if (row.scales_at.empty()) block[0] = uint8_t(116 + engine() % 6);  // a power of two
    }
}

void make_turned(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    constexpr int64_t GROUP = 32;
    Beside& b = *w.beside;
    const bool is_awq = row.format == Format::awq_4;
    b.n_groups = ceil_div(in, GROUP), b.group_inputs = GROUP;
    if (!is_awq) b.added = 1;
    for (int at = row.bits; !is_awq && row.bits != 3 && at < 32; at += row.bits) b.added |= 1u << at;
    b.data_stride = is_awq ? out / 8 : out;
    w.storage = random_bytes(4 * (is_awq ? in * out / 8 : ceil_div(in * row.bits, 32) * out));
    b.scale_format = Format::f16, b.scale_stride = out;
    b.scales = keep(w, numbers(Format::f16, b.n_groups * out, 0.1f / float(1 << row.bits)));
    b.zero_stride = ceil_div(out * row.bits, 32);
    b.zeros = words(w, b.n_groups * b.zero_stride);
    if (row.ordered) b.groups = any_order(w, in, GROUP);
}

void make_scaled_bytes(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    Beside& b = *w.beside;
    w.storage = random_bytes(out * in);
    const bool is_float = row.format == Format::f8_e4m3;
    for (uint8_t& code : w.storage)
        if (is_float && (code & 127) == 127) code = 0;  // no NaN
    b.group_rows = is_float ? 24 : 1, b.group_inputs = is_float ? 128 : in;
    b.n_groups = ceil_div(in, b.group_inputs), b.scale_stride = b.n_groups;
    b.scale_format = is_float ? Format::f32 : Format::bf16;
    b.scales = keep(w, numbers(b.scale_format, ceil_div(out, b.group_rows) * b.n_groups, 1e-3f));
    if (!is_float) b.zeros = keep(w, random_bytes(out));
}

void make_packed(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    constexpr int64_t GROUP = 64;
    Beside& b = *w.beside;
    b.n_groups = ceil_div(in, GROUP), b.group_inputs = GROUP;
    b.data_stride = ceil_div(in * row.bits, 32);
    w.storage = random_bytes(4 * out * b.data_stride);
    b.scale_format = Format::f16, b.scale_stride = b.n_groups;
    b.scales = keep(w, numbers(Format::f16, out * b.n_groups, 0.1f / float(1 << row.bits)));
    b.zero_stride = b.n_groups;
    b.zeros = words(w, ceil_div(out * row.bits, 32) * b.n_groups);
    if (row.ordered) b.groups = any_order(w, in, GROUP);
}

void make_bitsandbytes(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    Beside& b = *w.beside;
    b.scale_format = Format::f32;
    if (row.format == Format::bnb_int8) {
        w.storage = random_bytes(out * in);
        b.scales = keep(w, numbers(Format::f32, out, 0.1f));
        return;
    }
    w.storage = random_bytes(out * in / 2);
    b.rounds_to = Format::bf16, b.group_inputs = 64;
    b.numbers = keep<float>(w, numbers(Format::f32, 16, 1));
    const int64_t blocks = ceil_div(out * in, b.group_inputs);
    if (!row.ordered) {
        b.scales = keep(w, numbers(Format::f32, blocks, 0.1f));
        return;
    }
    b.nested_inputs = 256, b.nested_offset = 0.05f;
    b.scales = keep(w, random_bytes(blocks));
    b.nested_scales = keep<float>(w, numbers(Format::f32, ceil_div(blocks, b.nested_inputs), 0.1f));
    b.nested_numbers = keep<float>(w, numbers(Format::f32, 256, 1));
}

void make_hqq(Weight& w, const Foreign& row, int64_t out, int64_t in) {
    constexpr int64_t GROUP = 64;
    Beside& b = *w.beside;
    b.by_column = row.ordered;
    const int64_t rows = b.by_column ? GROUP : out * in / GROUP, columns = out * in / rows;
    const int64_t packed = row.bits == 3 ? 10 : 8 / row.bits;
    b.data_stride = ceil_div(rows, packed), b.group_inputs = columns;
    w.storage = random_bytes(b.data_stride * columns * (row.bits == 3 ? 4 : 1));
    b.rounds_to = b.scale_format = Format::f16;
    const int64_t n = b.by_column ? columns : rows;
    b.scales = keep(w, numbers(Format::f16, n, 0.1f / float(1 << row.bits)));
    b.zeros = keep(w, numbers(Format::f16, n, float(1 << row.bits) / 2));
}

Floats decoded(Runner& runner, const Kernels& kernels, const Matrix& m) {
    Floats out(size_t(m.out * m.in));
    kernels.dequantize(runner.pool.team(), &m, Format::f32, out.data());
    return out;
}

Weight foreign_weight(Runner& runner, const Foreign& row, int64_t out, int64_t in) {
    Weight w;
    w.beside = std::make_unique<Beside>();
    if (row.block_inputs) make_blocks(w, row, out, in);
    else if (row.format <= Format::awq_4) make_turned(w, row, out, in);
    else if (row.format <= Format::int8) make_scaled_bytes(w, row, out, in);
    else if (row.format <= Format::int8_packed) make_packed(w, row, out, in);
    else if (row.format <= Format::fp4) make_bitsandbytes(w, row, out, in);
    else make_hqq(w, row, out, in);
    w.matrix = {w.storage.data(), out, in, row.format, row.block_inputs ? nullptr : w.beside.get()};
    w.values = decoded(runner, *runner.isas.front()->kernels, w.matrix);
    return w;
}

constexpr int64_t FOREIGN_SHAPES[][2] = {{8, 256}, {72, 512}, {136, 256}};

// What each set decodes is what the scalar one does, and rows that are embedded are those of the whole.
void check_values(Runner& runner, const Foreign& row) {
    for (const auto& [out, in] : FOREIGN_SHAPES) {
        const Weight w = foreign_weight(runner, row, out, in);
        double largest = 0;
        for (float value : w.values) largest = std::max(largest, std::isfinite(value) ? std::abs(double(value)) : HUGE_VAL);
        report("scalar", label("values are sane", row.name, out, in, 0), largest, 100);
        report("scalar", label("values are not nothing", row.name, out, in, 0), -largest, -1e-4);
        for (const Implementation* isa : runner.isas) {
            report(isa->name, label("dequantize", row.name, out, in, 0),
                   decoded(runner, *isa->kernels, w.matrix) == w.values ? 0 : 1, 0);
            report(isa->name, label("embed", row.name, out, in, 0), widened(*isa->kernels, w.matrix) == w.values ? 0 : 1, 0);
        }
    }
}

void check_linear(Runner& runner, const Foreign& row) {
    for (const auto& [out, in] : FOREIGN_SHAPES) {
        const Weight w = foreign_weight(runner, row, out, in);
        for (int64_t n : {1, 2, 3, 5, 9, 33}) {
            const Floats x = normals(n * in);
            const std::string what = label("linear", row.name, out, in, n);
            auto linear = [&](const Kernels& k) {
                Floats found(size_t(n * out));
                k.linear(runner.pool.team(), x.data(), n, &w.matrix, found.data());
                return found;
            };
            runner.check(what, product(w, x.data(), n, row.rounds), FLOAT32, linear);
            for (const Implementation* isa : runner.isas) {
                Floats alone(size_t(n * out));
                for (int64_t t = 0; t < n; t++)
                    isa->kernels->linear(runner.pool.team(), &x[size_t(t * in)], 1, &w.matrix, &alone[size_t(t * out)]);
                report(isa->name, what + ": to the last bit as alone", linear(*isa->kernels) == alone ? 0 : 1, 0);
            }
        }
    }
}

}  // namespace
