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
    int bits = 0;                               // of packed codes
};
constexpr uint8_t UINT = uint8_t(nb::dlpack::dtype_code::UInt), FLOAT = uint8_t(nb::dlpack::dtype_code::Float);
constexpr uint8_t INT = uint8_t(nb::dlpack::dtype_code::Int);
constexpr nb::dlpack::dtype BYTES = {UINT, 8, 1}, INT8 = {INT, 8, 1}, WORDS = {INT, 32, 1};
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
    {"f8_e4m3", BYTES}, {"int8", INT8},
    {"int2-packed", WORDS, 0, 0, 0, 2}, {"int3-packed", WORDS, 0, 0, 0, 3},
    {"int4-packed", WORDS, 0, 0, 0, 4}, {"int8-packed", WORDS, 0, 0, 0, 8},
    {"bnb-int8", INT8}, {"nf4", BYTES}, {"fp4", BYTES},
    {"hqq-1", BYTES, 0, 0, 0, 1}, {"hqq-2", BYTES, 0, 0, 0, 2}, {"hqq-3", WORDS, 0, 0, 0, 3},
    {"hqq-4", BYTES, 0, 0, 0, 4}, {"hqq-8", BYTES, 0, 0, 0, 8},
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
        if (matrix.format > Format::gguf_mxfp4) fail("ShapeError", "weight: expected the parts of " + format + ", found none");
        expect_storage(data, matrix.format, shape[0], shape[1]);
        owners.push_back(Strided(data.handle()));
    }

    // A format that keeps arrays beside its codes, by their names in quant/; or rows of blocks in another order,
    // [heads, 2, head_dim / 2, row bytes].
    Leaf(Strided data, const std::vector<int64_t>& shape, const std::string& format, nb::dict parts, nb::dict numbers) {
        start(data.data(), shape, format);
        const FormatRow& row = FORMATS[int(matrix.format)];
        if (data.dtype() != row.dtype) fail("ShapeError", std::string("weight: wrong dtype for ") + row.name);
        const Format f = matrix.format;
        if (row.block_inputs) mixed_rows(data, row);
        else if (f < Format::gptq_2) fail("ShapeError", "weight: expected no parts for " + format);
        else if (f <= Format::awq_4) turned(data, parts, numbers, row.bits);
        else if (f <= Format::int8) scaled_bytes(data, parts, numbers);
        else if (f <= Format::int8_packed) packed(data, parts, numbers, row.bits);
        else if (f <= Format::fp4) bitsandbytes(data, parts, numbers);
        else hqq(data, parts, numbers, row.bits);
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

    void mixed_rows(const Strided& data, const FormatRow& row) {
        const int64_t row_bytes = matrix.in / row.block_inputs * row.block_bytes;
        if (data.ndim() != 4 || matrix.in % row.block_inputs)
            fail("ShapeError", "weight: expected rows in heads and halves, found " + text(shape_of(data)));
        beside.half_head = int64_t(data.shape(2));
        expect_shape("weight", data, {int64_t(data.shape(0)), 2, beside.half_head, row_bytes});
        if (int64_t(data.shape(0)) * 2 * beside.half_head != matrix.out || data.stride(3) != 1)
            fail("ShapeError", "weight: expected " + std::to_string(matrix.out) + " rows of bytes side by side, found " +
                                   text(shape_of(data)));
        for (size_t i = 0; i < 3; i++) beside.row_strides[i] = data.stride(i);
    }

    void turned(const Strided& data, const nb::dict& parts, const nb::dict& numbers, int bits) {
        const int64_t out = matrix.out, in = matrix.in;
        const bool is_awq = matrix.format == Format::awq_4;
        if (is_awq && out % 8) fail("ShapeError", "weight: expected rows in a multiple of 8, found " + std::to_string(out));
        const Strided scales = keep(parts, "scales"), zeros = keep(parts, "qzeros");
        if (scales.ndim() != 2) fail("ShapeError", "scales: expected a matrix, found " + text(shape_of(scales)));
        const int64_t zero_words = (out * bits + 31) / 32;
        beside.n_groups = int64_t(scales.shape(0));
        beside.group_inputs = positive(numbers, "group_size");
        beside.added = uint32_t(expect_number(numbers, "added"));
        beside.scale_format = scale_format(scales);
        if (zeros.dtype() != WORDS) fail("ShapeError", "qzeros: expected int32");
        if (is_awq) beside.data_stride = expect_lines("qweight", data, in, out / 8);
        else beside.data_stride = expect_lines("qweight", data, (in * bits + 31) / 32, out);
        beside.scale_stride = expect_lines("scales", scales, beside.n_groups, out);
        beside.zero_stride = expect_lines("qzeros", zeros, beside.n_groups, zero_words);
        beside.scales = scales.data(), beside.zeros = zeros.data();
        find_groups(parts);
    }

    // The group of every input, once n_groups and group_inputs are known.
    void find_groups(const nb::dict& parts) {
        const int64_t in = matrix.in;
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

    void expect_side_by_side(const char* what, const Strided& array) {
        int64_t stride = 1;
        for (size_t i = array.ndim(); i-- > 0; stride *= int64_t(array.shape(i)))
            if (array.shape(i) > 1 && array.stride(i) != stride)
                fail("ShapeError", std::string(what) + ": expected numbers side by side, found another order");
    }

    // Numbers [n] of a kind, side by side.
    const void* column(const nb::dict& parts, const char* name, nb::dlpack::dtype dtype, int64_t n) {
        const Strided array = keep(parts, name);
        expect_shape(name, array, {n});
        expect_side_by_side(name, array);
        if (array.dtype() != dtype) fail("ShapeError", std::string(name) + ": expected numbers of another type");
        return array.data();
    }

    int64_t positive(const nb::dict& numbers, const char* name) {
        const int64_t number = expect_number(numbers, name);
        if (number < 1) fail("ShapeError", std::string(name) + ": expected at least 1, found " + std::to_string(number));
        return number;
    }

    int64_t skipped(const nb::dict& numbers, const char* name, int64_t end) {
        const int64_t number = expect_number(numbers, name);
        if (number < 0 || number >= end)
            fail("ShapeError", std::string(name) + ": expected a number in 0.." + std::to_string(end - 1) + ", found " +
                                   std::to_string(number));
        return number;
    }

    // FP8 and int8: a scale for each block of block_rows x block_inputs.
    void scaled_bytes(const Strided& data, const nb::dict& parts, const nb::dict& numbers) {
        const int64_t out = matrix.out, in = matrix.in;
        expect_shape("weight", data, {out, in});
        expect_side_by_side("weight", data);
        beside.group_rows = positive(numbers, "block_rows"), beside.group_inputs = positive(numbers, "block_inputs");
        const int64_t rows = (out - 1) / beside.group_rows + 1;
        beside.n_groups = (in - 1) / beside.group_inputs + 1;
        const Strided scales = keep(parts, "scale");
        beside.scale_format = scale_format(scales);
        beside.scale_stride = expect_lines("scale", scales, rows, beside.n_groups);
        beside.scales = scales.data();
        if (matrix.format == Format::f8_e4m3) return;
        if (beside.n_groups > 1) fail("ShapeError", "block_inputs: expected all inputs of int8");
        expect_side_by_side("scale", scales);
        if (!parts.contains("zero_point")) return;
        const Strided zeros = keep(parts, "zero_point");
        expect_shape("zero_point", zeros, {rows, 1});
        expect_side_by_side("zero_point", zeros);
        if (zeros.dtype() != INT8) fail("ShapeError", "zero_point: expected int8");
        beside.zeros = zeros.data();
    }

    void packed(const Strided& data, const nb::dict& parts, const nb::dict& numbers, int bits) {
        const int64_t out = matrix.out, in = matrix.in;
        beside.data_stride = expect_lines("weight_packed", data, out, (in * bits + 31) / 32);
        beside.group_inputs = positive(numbers, "group_size");
        const Strided scales = keep(parts, "scale");
        if (scales.ndim() != 2) fail("ShapeError", "scale: expected a matrix, found " + text(shape_of(scales)));
        beside.n_groups = int64_t(scales.shape(1));
        beside.scale_format = scale_format(scales);
        beside.scale_stride = expect_lines("scale", scales, out, beside.n_groups);
        beside.scales = scales.data();
        if (parts.contains("zero_point")) {
            const Strided zeros = keep(parts, "zero_point");
            if (zeros.dtype() != WORDS) fail("ShapeError", "zero_point: expected int32");
            beside.zero_stride = expect_lines("zero_point", zeros, (out * bits + 31) / 32, beside.n_groups);
            beside.zeros = zeros.data();
        }
        find_groups(parts);
    }

    void bitsandbytes(const Strided& data, const nb::dict& parts, const nb::dict& numbers) {
        const int64_t out = matrix.out, in = matrix.in;
        expect_side_by_side("weight", data);
        if (matrix.format == Format::bnb_int8) {
            expect_shape("weight", data, {out, in});
            beside.scale_format = Format::f32;
            beside.scales = column(parts, "SCB", FORMATS[0].dtype, out);
            return;
        }
        if (in % 2) fail("ShapeError", "weight: expected even inputs, found " + std::to_string(in));
        expect_shape("weight", data, {out, in / 2});
        beside.rounds_to = rounding(numbers);
        beside.group_inputs = positive(numbers, "block_size");
        beside.skip = skipped(numbers, "skip", beside.group_inputs);
        const int64_t blocks = (beside.skip + out * in - 1) / beside.group_inputs + 1;
        beside.numbers = static_cast<const float*>(column(parts, "quant_map", FORMATS[0].dtype, 16));
        if (!numbers.contains("nested_block_size")) {
            beside.scales = column(parts, "absmax", FORMATS[0].dtype, blocks);
            return;
        }
        beside.nested_inputs = positive(numbers, "nested_block_size");
        beside.nested_skip = skipped(numbers, "nested_skip", beside.nested_inputs);
        beside.scales = column(parts, "absmax", BYTES, blocks);
        const int64_t nested = (beside.nested_skip + blocks - 1) / beside.nested_inputs + 1;
        beside.nested_scales = static_cast<const float*>(column(parts, "nested_absmax", FORMATS[0].dtype, nested));
        beside.nested_numbers = static_cast<const float*>(column(parts, "nested_quant_map", FORMATS[0].dtype, 256));
        beside.nested_offset = *static_cast<const float*>(column(parts, "nested_offset", FORMATS[0].dtype, 1));
    }

    // A grid [rows, columns] of codes, of which this matrix is a stretch from `skip` on.
    void hqq(const Strided& data, const nb::dict& parts, const nb::dict& numbers, int bits) {
        const int64_t rows = positive(numbers, "rows"), columns = positive(numbers, "columns");
        const int64_t packed = bits == 3 ? 10 : 8 / bits;
        beside.data_stride = (rows - 1) / packed + 1, beside.group_inputs = columns;
        expect_shape("W_q", data, {beside.data_stride, columns});
        expect_side_by_side("W_q", data);
        beside.skip = skipped(numbers, "skip", rows * columns);
        if (matrix.out * matrix.in > rows * columns - beside.skip)
            fail("ShapeError", "weight: expected at most " + std::to_string(rows * columns - beside.skip) +
                                   " numbers, found " + text({matrix.out, matrix.in}));
        beside.rounds_to = rounding(numbers);
        beside.by_column = expect_number(numbers, "axis") == 0;
        const int64_t n = beside.by_column ? columns : rows;
        const Strided scales = expect_part(parts, "scale");
        beside.scale_format = scale_format(scales);
        beside.scales = column(parts, "scale", scales.dtype(), n);
        beside.zeros = column(parts, "zero", scales.dtype(), n);
    }

    // What a program computes in: 0 f32, 1 f16, 2 bf16.
    static Format rounding(const nb::dict& numbers) {
        const int64_t number = expect_number(numbers, "dtype");
        if (number < 0 || number > 2) fail("ShapeError", "dtype: expected 0 to 2, found " + std::to_string(number));
        return Format(number);
    }
};

}  // namespace
}  // namespace octuor
