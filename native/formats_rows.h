// Other programs' formats whose rows lie one after the other, with scales beside them: bytes, nibbles, words.
//
// A format is one function, decode(w, row, from, n, to): the numbers of n inputs (up to DECODED) of a row from input
// `from` on, a multiple of DECODED. Layouts and rounding: quant/{fp8,compressed,bitsandbytes,hqq}.py.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t DECODED = 512;

// Calls f(first, n, group) for the stretches of inputs from to from + n of one group; inputs lie `skip` places on.
template <class F>
static inline void by_group(int64_t from, int64_t n, int64_t skip, int64_t group_inputs, F f) {
    for (int64_t first = from; first < from + n;) {
        const int64_t group = (first + skip) / group_inputs;
        const int64_t end = least(from + n, (group + 1) * group_inputs - skip);
        f(first, end - first, group);
        first = end;
    }
}

// to[i] = f(numbers of a vector, i) for i in [0, n), n at least 1; f gets W numbers, those beyond n anything.
template <class F>
static inline void each_vector(int64_t n, float* to, F f) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, f(i));
    if (i < n) store_n(to + i, f(i), n - i);
}

// Codes of up to DECODED inputs, with room to read a vector beyond them.
struct Codes {
    alignas(64) uint8_t at[DECODED + 64];
};

// n codes of 4 bits, two a byte; FIRST: the bits of the first.
template <int FIRST>
static inline void unpack_nibbles(const uint8_t* bytes, int64_t n, uint8_t* to) {
    const Bytes16 mixed = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    for (int64_t i = 0; i < n; i += 32) {
        Bytes16 all = {};
        memcpy(&all, bytes + i / 2, size_t(least(16, (n - i + 1) / 2)));
        const Bytes16 low = all & 15, high = all >> 4;
        const Bytes16 first = FIRST ? high : low, second = FIRST ? low : high;
        const Bytes16 ahead = __builtin_shuffle(first, second, mixed), behind = __builtin_shuffle(first, second, mixed + 8);
        memcpy(to + i, &ahead, 16);
        memcpy(to + i + 16, &behind, 16);
    }
}

static inline float scale_at(const Beside& beside, int64_t i) {
    return by_scales(beside, [=](auto* scales) { return widen(scales[i]); });
}
static inline int64_t scale_row(const Beside& beside, int64_t row) {
    return beside.group_rows ? row / beside.group_rows * beside.scale_stride : 0;
}

// float8 e4m3 times a scale for a block of rows and inputs. As a half its exponent is 8 too low; 127 is NaN.
static void decode_e4m3(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    const auto* codes = static_cast<const uint8_t*>(w.data) + row * w.in + from;
    alignas(64) uint16_t halves[DECODED + W];
    for (int64_t i = 0; i < n; i++) {
        const unsigned size = codes[i] & 127u, sign = (codes[i] & 128u) << 8;
        halves[i] = uint16_t(sign | (size == 127 ? 0x7e00 : size << 7));
    }
    for (int64_t i = n; i < n + W; i++) halves[i] = 0;
    by_scales(*w.beside, [&]<class T>(const T* scales) {
        by_group(from, n, 0, w.beside->group_inputs, [&](int64_t first, int64_t count, int64_t group) {
            const F32 scale = set1(widen(scales[scale_row(*w.beside, row) + group]));
            const f16* at = reinterpret_cast<const f16*>(halves) + first - from;
            each_vector(count, to + first - from, [&](int64_t i) {
                return rounded(mul(mul(load(at + i), set1(256.0f)), scale), T());
            });
        });
    });
}

// int8, less a zero, times a scale for a block of rows.
static void decode_int8(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    Codes codes;
    memcpy(codes.at, static_cast<const uint8_t*>(w.data) + row * w.in + from, size_t(n));
    const auto* numbers = reinterpret_cast<const int8_t*>(codes.at);
    const int64_t at = scale_row(*w.beside, row);
    const F32 zero = set1(w.beside->zeros ? float(static_cast<const int8_t*>(w.beside->zeros)[at]) : 0.0f);
    by_scales(*w.beside, [&]<class T>(const T* scales) {
        const F32 scale = set1(widen(scales[at]));
        each_vector(n, to, [&](int64_t i) { return rounded(mul(sub(load_i8(numbers + i), zero), scale), T()); });
    });
}

// bitsandbytes' int8: the row's largest magnitude times the code, then times 1 / 127 as it has it.
static void decode_bnb_int8(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    Codes codes;
    memcpy(codes.at, static_cast<const uint8_t*>(w.data) + row * w.in + from, size_t(n));
    const auto* numbers = reinterpret_cast<const int8_t*>(codes.at);
    const F32 scale = set1(scale_at(*w.beside, row)), step = set1(7.874015718698502e-3f);
    each_vector(n, to, [&](int64_t i) { return mul(mul(load_i8(numbers + i), scale), step); });
}

// The largest magnitude of a block of bitsandbytes' 4 bits; bytes, where they are quantized once more.
static inline float bnb_absmax(const Beside& beside, int64_t block) {
    if (!beside.nested_scales) return static_cast<const float*>(beside.scales)[block];
    const uint8_t code = static_cast<const uint8_t*>(beside.scales)[block];
    const int64_t nested = (block + beside.nested_skip) / beside.nested_inputs;
    return beside.nested_numbers[code] * beside.nested_scales[nested] + beside.nested_offset;
}

// nf4 and fp4: a table of 16 numbers times the largest magnitude of a block, which does not end where a row does.
static void decode_bnb_4(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    Codes codes;
    const int64_t flat = row * w.in + from;
    unpack_nibbles<4>(static_cast<const uint8_t*>(w.data) + flat / 2, n, codes.at);
    auto decode = [&]<class T>(T) {
        by_group(flat, n, w.beside->skip, w.beside->group_inputs, [&](int64_t first, int64_t count, int64_t block) {
            const F32 size = set1(bnb_absmax(*w.beside, block));
            each_vector(count, to + first - flat, [&](int64_t i) {
                return rounded(mul(pick(w.beside->numbers, codes.at + first - flat + i), size), T());
            });
        });
    };
    if (w.beside->rounds_to == Format::f16) decode(f16());
    else if (w.beside->rounds_to == Format::bf16) decode(bf16());
    else decode(0.0f);
}

// compressed-tensors' words of codes, less their middle or a zero, times a scale.
template <int BITS>
static void decode_packed(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    const Beside& beside = *w.beside;
    const uint8_t* line = line_of(w.data, row, beside.data_stride);
    Codes codes;
    if (BITS == 4) unpack_nibbles<0>(line + from / 2, n, codes.at);
    else for (int64_t i = 0; i < n; i++) codes.at[i] = uint8_t(bits_at(line, (from + i) * BITS, BITS));
    auto zero = [&](int64_t group) {
        if (!beside.zeros) return float(1 << (BITS - 1));
        const int64_t at = row * BITS;
        const int shift = int(at % 32);
        uint32_t found = word_at(line_of(beside.zeros, at / 32, beside.zero_stride), group) >> shift;
        if (shift + BITS > 32) found |= word_at(line_of(beside.zeros, at / 32 + 1, beside.zero_stride), group) << (32 - shift);
        return float(found & ((1u << BITS) - 1));
    };
    by_scales(beside, [&]<class T>(const T* all) {
        const T* scales = all + row * beside.scale_stride;
        auto numbers = [&](int64_t first, int64_t count, int64_t group) {
            const F32 middle = set1(zero(group)), scale = set1(widen(scales[group]));
            each_vector(count, to + first, [&](int64_t i) {
                return rounded(mul(sub(load_u8(codes.at + first + i), middle), scale), T());
            });
        };
        if (!beside.groups)
            return by_group(from, n, 0, beside.group_inputs,
                            [&](int64_t first, int64_t count, int64_t group) { numbers(first - from, count, group); });
        for (int64_t i = 0; i < n; i++) numbers(i, 1, beside.groups[from + i]);
    });
}

// HQQ: codes of a grid's rows, packed by blocks of those rows; less a zero, rounded, times a scale, rounded.
template <int BITS>
static void decode_hqq(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    constexpr int PACKED = BITS == 3 ? 10 : 8 / BITS;
    const Beside& beside = *w.beside;
    const int64_t width = beside.group_inputs, flat = row * w.in + from;
    Codes codes;
    auto decode = [&]<class T>(T) {
        by_group(flat, n, beside.skip, width, [&](int64_t first, int64_t count, int64_t grid_row) {
            const int64_t column = first + beside.skip - grid_row * width;
            const int shift = int(PACKED - 1 - grid_row / beside.data_stride) * BITS;
            const int64_t element = grid_row % beside.data_stride * width + column;
            for (int64_t i = 0; i < count; i++) {
                const uint32_t word = BITS == 3 ? word_at(w.data, element + i)
                                                : static_cast<const uint8_t*>(w.data)[element + i];
                codes.at[i] = uint8_t(word >> shift & ((1u << BITS) - 1));
            }
            by_scales(beside, [&]<class S>(const S* scales) {
                const auto* zeros = static_cast<const S*>(beside.zeros);
                const F32 of_row = set1(beside.by_column ? 0.0f : widen(scales[grid_row]));
                const F32 zero_of_row = set1(beside.by_column ? 0.0f : widen(zeros[grid_row]));
                each_vector(count, to + first - flat, [&](int64_t i) {
                    F32 zero = zero_of_row, scale = of_row;
                    if (beside.by_column) {
                        const int64_t here = least(W, count - i);
                        zero = load_n(zeros + column + i, here), scale = load_n(scales + column + i, here);
                    }
                    return rounded(mul(rounded(sub(load_u8(codes.at + i), zero), T()), scale), T());
                });
            });
        });
    };
    if (beside.rounds_to == Format::f16) decode(f16());
    else if (beside.rounds_to == Format::bf16) decode(bf16());
    else decode(0.0f);
}

using Decode = void (*)(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to);

static Decode row_decoder(Format format) {
    switch (format) {
        case Format::f8_e4m3: return decode_e4m3;
        case Format::int8: return decode_int8;
        case Format::bnb_int8: return decode_bnb_int8;
        case Format::nf4: case Format::fp4: return decode_bnb_4;
        case Format::int2_packed: return decode_packed<2>;
        case Format::int3_packed: return decode_packed<3>;
        case Format::int4_packed: return decode_packed<4>;
        case Format::int8_packed: return decode_packed<8>;
        case Format::hqq_1: return decode_hqq<1>;
        case Format::hqq_2: return decode_hqq<2>;
        case Format::hqq_3: return decode_hqq<3>;
        case Format::hqq_4: return decode_hqq<4>;
        default: return decode_hqq<8>;
    }
}

// One row from end to end.
static void decode_row(const Matrix& w, int64_t row, float* to) {
    const Decode decode = row_decoder(w.format);
    for (int64_t from = 0; from < w.in; from += DECODED) decode(w, row, from, least(DECODED, w.in - from), to + from);
}

// As PlainRows, of weights that lie otherwise: decoded where they stay in L1 until they have met all tokens.
struct DecodedRows {
    using Number = float;
    static constexpr int64_t PANEL = DECODED;
    const Matrix& w;
    Decode decode;
    alignas(64) float numbers[ROWS_AT_ONCE][PANEL];

    explicit DecodedRows(const Matrix& weight) : w(weight), decode(row_decoder(weight.format)) {}

    template <int R>
    const uint8_t* get(int64_t row, int64_t from, int64_t n, bool, const float* (&rows)[R]) {
        for (int r = 0; r < R; r++) {
            decode(w, row + r, from, n, numbers[r]);
            rows[r] = numbers[r];
        }
        return nullptr;
    }
};

}  // namespace octuor::OCTUOR_ISA
