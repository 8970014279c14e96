// What comparing instruction sets takes: random numbers, checks and their report, weights and their products in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "threads.h"

using namespace octuor;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Bytes = std::vector<uint8_t>;

namespace {

struct FormatRow {
    const char* name;
    Format format;
    int64_t number_bytes, tile_bytes;  // one of them 0
    double error;                      // relative rms of a normal matrix, as quant.FORMATS declares it
};
// The tiled ones as in bindings.cpp.
const FormatRow FORMATS[] = {
    {"f32", Format::f32, 4, 0, 0},         {"f16", Format::f16, 2, 0, 3e-4},     {"bf16", Format::bf16, 2, 0, 4e-3},
    {"q8", Format::q8, 0, 16512, 0.0075},  {"q6", Format::q6, 0, 13056, 0.025},  {"q5", Format::q5, 0, 11008, 0.045},
    {"q4", Format::q4, 0, 8960, 0.08},     {"q3", Format::q3, 0, 6912, 0.16},    {"q2", Format::q2, 0, 4864, 0.33},
};
constexpr int64_t ROWS = 64, INPUTS = 256;

// Relative to the largest result of a product: sums of some hundred float32 products, in another order.
constexpr double ROUNDING = 3e-6;
// exp within 2 ulp, twice, and its sums.
constexpr double SOFTMAX = 1e-5;
// Queries, keys, values and probabilities of 8 bits each, where many queries meet an f16 cache with __AVX512BF16__.
constexpr double BFLOAT16 = 0.03;
// A hidden value next to a boundary between two int8 codes may fall to either side: one code of 127 of one input.
constexpr double REQUANTIZED = 3e-3;

std::mt19937 engine(7);
int n_checks = 0, n_failures = 0;

float normal() {
    static std::normal_distribution<float> distribution;
    return distribution(engine);
}
Floats normals(int64_t n) {
    Floats x(static_cast<size_t>(n));
    for (float& v : x) v = normal();
    return x;
}
// All of one magnitude: codes and sums at their extremes.
Floats signs(int64_t n) {
    Floats x(static_cast<size_t>(n));
    for (float& v : x) v = normal() < 0 ? -1.0f : 1.0f;
    return x;
}

void report(const std::string& isa, const std::string& what, double difference, double limit) {
    n_checks++;
    if (difference <= limit) return;  // false for a NaN
    n_failures++;
    if (n_failures <= 40)
        std::printf("DIFFERS  %-10s %s: off by %.3g, expected at most %.3g\n", isa.c_str(), what.c_str(), difference,
                    limit);
}

template <class A, class B>
double difference(const std::vector<A>& found, const std::vector<B>& expected) {
    double largest = 1e-30, off = 0;
    for (const B& x : expected) largest = std::max(largest, std::abs(double(x)));
    for (size_t i = 0; i < expected.size(); i++) {
        const double d = std::abs(double(found[i]) - double(expected[i]));
        if (!(d <= off)) off = d;
        if (std::isnan(d)) return d;
    }
    return off / largest;
}

// What the caller of a check has: the definition, or null where the scalar result is what counts.
struct Runner {
    std::vector<const Implementation*> isas;
    Pool pool{2, {}};

    // run(kernels) returns the result of one instruction set.
    template <class F>
    Floats check(const std::string& what, const Doubles& definition, double limit, F run) {
        Floats scalar;
        for (const Implementation* isa : isas) {
            const Floats found = run(*isa->kernels);
            if (isa == isas.front()) {
                scalar = found;
                if (definition.empty()) continue;
                report(isa->name, what + " (definition)", difference(found, definition), limit);
            } else {
                report(isa->name, what, difference(found, scalar), limit);
            }
        }
        return scalar;
    }
};

// ---- weights --------------------------------------------------------------------------------------------------

// Storage and what it stands for.
struct Weight {
    Bytes storage;
    Matrix matrix;
    Floats values;  // [out, in]
    std::vector<Bytes> parts = {};  // what another program's format keeps beside it
    std::unique_ptr<Beside> beside = {};
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Matrix matrix_of(const Floats& x, int64_t out, int64_t in) { return {x.data(), out, in, Format::f32}; }

uint16_t truncated_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t(bits >> 16);
}

Bytes plain_storage(const FormatRow& row, const Floats& x) {
    Bytes bytes(x.size() * size_t(row.number_bytes) + 2);
    for (size_t i = 0; i < x.size(); i++) {
        uint8_t* at = bytes.data() + i * size_t(row.number_bytes);
        if (row.format == Format::f32) std::memcpy(at, &x[i], 4);
        if (row.format == Format::bf16) {
            const uint16_t bits = truncated_bf16(x[i]);
            std::memcpy(at, &bits, 2);
        }
        if (row.format == Format::f16) {  // 11 bits are kept: exact in f16 while the exponent is
            const int exponent = x[i] == 0 ? 0 : std::max(std::ilogb(x[i]), -14);
            const auto units = uint16_t(std::lrint(std::abs(std::ldexp(x[i], 10 - exponent))));
            const uint16_t bits = units < 1024 ? units : uint16_t(units - 1024 + ((exponent + 15) << 10));
            const uint16_t with_sign = uint16_t(bits | (x[i] < 0 ? 0x8000 : 0));
            std::memcpy(at, &with_sign, 2);
        }
    }
    return bytes;
}

Bytes tiled_storage(const Kernels& kernels, Team* team, const FormatRow& row, const Floats& x, int64_t out,
                    int64_t in) {
    Bytes bytes(size_t(ceil_div(out, ROWS) * ceil_div(in, INPUTS) * row.tile_bytes));
    const Matrix from = matrix_of(x, out, in);
    kernels.quantize(team, &from, row.format, nullptr, false, bytes.data());
    return bytes;
}

Floats widened(const Kernels& kernels, const Matrix& m) {
    std::vector<int32_t> tokens(static_cast<size_t>(m.out));
    for (size_t i = 0; i < tokens.size(); i++) tokens[i] = int32_t(i);
    Floats out(size_t(m.out * m.in));
    kernels.embed(&m, tokens.data(), m.out, out.data());
    return out;
}

Weight make_weight(Runner& runner, const FormatRow& row, const Floats& x, int64_t out, int64_t in) {
    const Kernels& scalar = *runner.isas.front()->kernels;
    Weight w;
    w.storage = row.tile_bytes ? tiled_storage(scalar, runner.pool.team(), row, x, out, in) : plain_storage(row, x);
    w.matrix = {w.storage.data(), out, in, row.format};
    w.values = widened(scalar, w.matrix);
    return w;
}

// Inputs as products with a tiled weight see them.
Doubles rounded_inputs(const float* x, int64_t n, int64_t width) {
    Doubles y(size_t(n * width));
    for (int64_t t = 0; t < n; t++)
        for (int64_t from = 0; from < width; from += INPUTS) {
            const int64_t end = std::min(width, from + INPUTS);
            float most = 0;
            for (int64_t i = from; i < end; i++) most = std::max(most, std::abs(x[t * width + i]));
            const float scale = most / 127.0f, inverse = most > 0 ? 1.0f / scale : 0.0f;
            for (int64_t i = from; i < end; i++) {
                const float code = std::nearbyint(std::clamp(x[t * width + i] * inverse, -127.0f, 127.0f));
                y[size_t(t * width + i)] = double(code) * double(scale);
            }
        }
    return y;
}

Doubles product(const Weight& w, const float* x, int64_t n, bool tiled) {
    const int64_t out = w.matrix.out, in = w.matrix.in;
    const Doubles inputs = tiled ? rounded_inputs(x, n, in) : Doubles(x, x + n * in);
    Doubles y(size_t(n * out));
    for (int64_t t = 0; t < n; t++)
        for (int64_t o = 0; o < out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < in; i++) sum += double(w.values[size_t(o * in + i)]) * inputs[size_t(t * in + i)];
            y[size_t(t * out + o)] = sum;
        }
    return y;
}

std::string label(const char* what, const char* name, int64_t a, int64_t b, int64_t n) {
    return std::string(what) + " " + name + " [" + std::to_string(a) + ", " + std::to_string(b) + "], " +
           std::to_string(n) + " tokens";
}

}  // namespace
