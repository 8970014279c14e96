// A weight as Python hands it over, in any of the formats: all that kernels rely on is checked here, once.
#pragma once

#include "checks.h"
#include "kernels.h"

namespace octuor {
namespace {

// A row of quant.FORMATS, or a storage of another program.
struct FormatRow {
    const char* name;
    nb::dlpack::dtype dtype;
    int64_t tile_bytes = 0;                   // of a tiled format
    int64_t block_inputs = 0, block_bytes = 0;  // of rows of blocks
    int bits = 0;                               // of codes that lie inputs first
};
constexpr uint8_t UINT = uint8_t(nb::dlpack::dtype_code::UInt), FLOAT = uint8_t(nb::dlpack::dtype_code::Float);
constexpr uint8_t INT = uint8_t(nb::dlpack::dtype_code::Int);
constexpr nb::dlpack::dtype BYTES = {UINT, 8, 1}, WORDS = {INT, 32, 1};
const FormatRow FORMATS[] = {
    // in the order of enum Format
    {"f32", {FLOAT, 32, 1}}, {"f16", {FLOAT, 16, 1}}, {"bf16", {UINT, 16, 1}},
    {"q8", BYTES, 16512}, {"q6", BYTES, 13056}, {"q5", BYTES, 11008},
    {"q4", BYTES, 8960},  {"q3", BYTES, 6912},  {"q2", BYTES, 4864},
    {"gguf-q4_0", BYTES, 0, 32, 18},   {"gguf-q4_1", BYTES, 0, 32, 20},   {"gguf-q5_0", BYTES, 0, 32, 22},
    {"gguf-q5_1", BYTES, 0, 32, 24},   {"gguf-q8_0", BYTES, 0, 32, 34},   {"gguf-q2_k", BYTES, 0, 256, 84},
    {"gguf-q3_k", BYTES, 0, 256, 110}, {"gguf-q4_k", BYTES, 0, 256, 144}, {"gguf-q5_k", BYTES, 0, 256, 176},
    {"gguf-q6_k", BYTES, 0, 256, 210}, {"gguf-iq4_nl", BYTES, 0, 32, 18}, {"gguf-iq4_xs", BYTES, 0, 256, 136},
    {"gguf-mxfp4", BYTES, 0, 32, 17},
    {"gptq-2", WORDS, 0, 0, 0, 2}, {"gptq-3", WORDS, 0, 0, 0, 3}, {"gptq-4", WORDS, 0, 0, 0, 4},
    {"gptq-8", WORDS, 0, 0, 0, 8}, {"awq-4", WORDS, 0, 0, 0, 4},
};
constexpr int64_t TILE_ROWS = 64, TILE_INPUTS = 256;

std::vector<std::string> format_names() {
    std::vector<std::string> names;
    for (const FormatRow& row : FORMATS) names.push_back(row.name);
    return names;
}

Format find_format(const std::string& name) {
    std::string here;
    int i = 0;
    for (const FormatRow& row : FORMATS) {
        if (name == row.name) return Format(i);
        here += (i++ ? ", " : "") + std::string(row.name);
    }
    fail("FormatError", "number format: the native kernels have " + here + "; found " + name);
}

template <class Array>
void expect_storage(const Array& data, Format format, int64_t out, int64_t in) {
    const FormatRow& row = FORMATS[int(format)];
    if (data.dtype() != row.dtype) fail("ShapeError", std::string("weight: wrong dtype for ") + row.name);
    if (row.block_inputs) {
        if (in % row.block_inputs)
            fail("ShapeError", "weight: expected inputs in a multiple of " + std::to_string(row.block_inputs) + " for " +
                                   row.name + ", found " + std::to_string(in));
        return expect_shape("weight", data, {out, in / row.block_inputs * row.block_bytes});
    }
    if (!row.tile_bytes) return expect_shape("weight", data, {out, in});
    expect_shape("weight", data,
                 {(out + TILE_ROWS - 1) / TILE_ROWS, (in + TILE_INPUTS - 1) / TILE_INPUTS, row.tile_bytes});
}

using Strided = nb::ndarray<nb::ro, nb::device::cpu>;

// An array of lines, each of numbers one after the other; lines may be apart. Returns the numbers from one to the next.
int64_t expect_lines(const char* what, const Strided& array, int64_t lines, int64_t numbers) {
    expect_shape(what, array, {lines, numbers});
    const int64_t stride = array.stride(0);
    if (array.stride(1) != 1 || stride < numbers)
        fail("ShapeError", std::string(what) + ": expected lines of numbers side by side, found another order");
    return stride;
}

Strided expect_part(const nb::dict& parts, const char* name) {
    Strided array;
    if (!parts.contains(name) || !nb::try_cast(parts[name], array, false))
        fail("ShapeError", std::string("weight: expected an array ") + name + ", found none");
    return array;
}

int64_t expect_number(const nb::dict& numbers, const char* name) {
    int64_t number = 0;
    if (!numbers.contains(name) || !nb::try_cast(numbers[name], number))
        fail("ShapeError", std::string("weight: expected a number ") + name + ", found none");
    return number;
}

Format scale_format(const Strided& scales) {
    for (int i = 0; i < 3; i++)
        if (scales.dtype() == FORMATS[i].dtype) return Format(i);
    fail("ShapeError", "scales: expected float32, float16, or bfloat16 as uint16");
}

// A leaf: keeps its arrays alive, never copies them.
struct Leaf {
    std::vector<Strided> owners;
    Matrix matrix;
    Beside beside = {};

    Leaf(AnyInput data, const std::vector<int64_t>& shape, const std::string& format) {
        start(data.data(), shape, format);
        if (FORMATS[int(matrix.format)].bits) fail("ShapeError", "weight: expected the parts of " + format + ", found none");
        expect_storage(data, matrix.format, shape[0], shape[1]);
        owners.push_back(Strided(data.handle()));
    }

    // A format that keeps arrays beside its codes: GPTQ's and AWQ's scales, qzeros, g_idx.
    Leaf(Strided data, const std::vector<int64_t>& shape, const std::string& format, nb::dict parts, nb::dict numbers) {
        start(data.data(), shape, format);
        const FormatRow& row = FORMATS[int(matrix.format)];
        if (!row.bits) fail("ShapeError", "weight: expected no parts for " + format);
        if (data.dtype() != row.dtype) fail("ShapeError", std::string("weight: wrong dtype for ") + row.name);
        turned(data, parts, numbers, row.bits);
        owners.push_back(data);
        matrix.beside = &beside;
    }
    Leaf(const Leaf&) = delete;  // matrix points into it
    Leaf& operator=(const Leaf&) = delete;

 private:
    void start(const void* data, const std::vector<int64_t>& shape, const std::string& format) {
        if (shape.size() != 2) fail("ShapeError", "weight: expected a matrix, found " + text(shape));
        if (shape[0] < 1 || shape[1] < 1)
            fail("ShapeError", "weight: expected at least one row and input, found " + text(shape));
        matrix = {data, shape[0], shape[1], find_format(format)};
    }

    Strided keep(const nb::dict& parts, const char* name) {
        owners.push_back(expect_part(parts, name));
        return owners.back();
    }

    void turned(const Strided& data, const nb::dict& parts, const nb::dict& numbers, int bits) {
        const int64_t out = matrix.out, in = matrix.in;
        const bool is_awq = matrix.format == Format::awq_4;
        if (is_awq && out % 8) fail("ShapeError", "weight: expected rows in a multiple of 8, found " + std::to_string(out));
        const Strided scales = keep(parts, "scales"), zeros = keep(parts, "qzeros");
        if (scales.ndim() != 2) fail("ShapeError", "scales: expected a matrix, found " + text(shape_of(scales)));
        const int64_t zero_words = (out * bits + 31) / 32;
        beside.n_groups = int64_t(scales.shape(0));
        beside.group_inputs = expect_number(numbers, "group_size");
        if (beside.group_inputs < 1) fail("ShapeError", "group_size: expected at least 1, found " + std::to_string(beside.group_inputs));
        beside.added = uint32_t(expect_number(numbers, "added"));
        beside.scale_format = scale_format(scales);
        if (zeros.dtype() != WORDS) fail("ShapeError", "qzeros: expected int32");
        if (is_awq) beside.data_stride = expect_lines("qweight", data, in, out / 8);
        else beside.data_stride = expect_lines("qweight", data, (in * bits + 31) / 32, out);
        beside.scale_stride = expect_lines("scales", scales, beside.n_groups, out);
        beside.zero_stride = expect_lines("qzeros", zeros, beside.n_groups, zero_words);
        beside.scales = scales.data(), beside.zeros = zeros.data();
        if (parts.contains("g_idx")) {
            const Strided groups = keep(parts, "g_idx");
            expect_shape("g_idx", groups, {in});
            if (groups.dtype() != WORDS || groups.stride(0) != 1) fail("ShapeError", "g_idx: expected int32 side by side");
            beside.groups = static_cast<const int32_t*>(groups.data());
            for (int64_t i = 0; i < in; i++)
                if (beside.groups[i] < 0 || beside.groups[i] >= beside.n_groups)
                    fail("FormatError", "g_idx: expected groups from 0 to " + std::to_string(beside.n_groups - 1) +
                                            ", found " + std::to_string(beside.groups[i]) + "; download the file again");
        } else if ((in - 1) / beside.group_inputs >= beside.n_groups) {
            fail("ShapeError", "scales: expected " + std::to_string((in - 1) / beside.group_inputs + 1) +
                                   " groups, found " + std::to_string(beside.n_groups));
        }
    }
};

}  // namespace
}  // namespace octuor
