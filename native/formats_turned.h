// Formats that lie inputs first, GPTQ's and AWQ's: a line of memory has a word of some inputs, or one input, of all rows.
//
//   weight = (code - zero of its group and row) * scale of them, rounded to the scales' own numbers
//
// They are decoded 64 rows and some inputs at a time, in the order in which they lie. A format is one struct:
//   unit(w, first_row, n_rows, from, n, rows)  calls rows(r)(i, codes of the W rows from first_row + r on) for the n
//                  inputs from + i; n is up to 32, `from` a multiple of it. What rows are beyond n_rows, and inputs of
//                  the 32 beyond n, is anything
//   lines_of(w, first_row, from, n, each)  calls each(address, bytes) for the stretches of memory that they lie in
//   code(w, row, input), zeros(w, group, first_row, n, to)
// Layouts: quant/gptq.py and quant/awq.py.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t RUN = 64;  // inputs decoded at a time: 16 KiB of numbers

static inline uint32_t word_at(const void* words, int64_t i) {
    uint32_t word;
    memcpy(&word, static_cast<const uint8_t*>(words) + 4 * i, 4);
    return word;
}
// n bits from bit `at` on of a line of words; no more than the words that hold them are read.
static inline uint32_t bits_at(const void* words, int64_t at, int n) {
    const int shift = int(at % 32);
    uint32_t found = word_at(words, at / 32) >> shift;
    if (shift + n > 32) found |= word_at(words, at / 32 + 1) << (32 - shift);
    return found & ((1u << n) - 1);
}
static inline const uint8_t* line_of(const void* words, int64_t line, int64_t stride) {
    return static_cast<const uint8_t*>(words) + line * stride * 4;
}

template <int BITS>
struct Gptq {
    template <class F>
    static inline void unit(const Matrix& w, int64_t first_row, int64_t n_rows, int64_t from, int64_t, F rows) {
        const int64_t first_line = from / 32 * BITS, here = least(BITS, ceil_div(w.in * BITS, 32) - first_line);
        alignas(64) uint32_t padded[BITS][ROWS];
        const uint8_t* lines[BITS];
        for (int64_t k = 0; k < BITS; k++) {
            lines[k] = line_of(w.data, first_line + k, w.beside->data_stride) + first_row * 4;
            if (k < here && n_rows == ROWS) continue;
            memset(padded[k], 0, sizeof padded[k]);
            if (k < here) memcpy(padded[k], lines[k], size_t(n_rows) * 4);
            lines[k] = reinterpret_cast<const uint8_t*>(padded[k]);
        }
        for (int64_t r = 0; r < ROWS; r += W) {
            const auto each = rows(r);
            I32 words[BITS];
            for (int k = 0; k < BITS; k++) words[k] = load_i(lines[k] + r * 4);
#pragma GCC unroll 32
            for (int i = 0; i < 32; i++) {
                const int k = i * BITS / 32, bit = i * BITS % 32;
                I32 code = bit ? shift_lanes(words[k], -bit) : words[k];
                if (bit + BITS > 32) code = either(code, shift_lanes(words[k + 1 < BITS ? k + 1 : k], 32 - bit));
                each(i, to_f32(bit + BITS == 32 ? code : lane_bits(code, (1 << BITS) - 1)));
            }
        }
    }
    // Where the 64 rows of a line lie, for the lines of inputs from to from + n; n is a multiple of 32.
    template <class F>
    static inline void lines_of(const Matrix& w, int64_t first_row, int64_t from, int64_t n, F each) {
        const int64_t end = least((from + n) / 32 * BITS, ceil_div(w.in * BITS, 32));
        for (int64_t line = from / 32 * BITS; line < end; line++)
            each(line_of(w.data, line, w.beside->data_stride) + first_row * 4, ROWS * 4);
    }
    static inline uint32_t code(const Matrix& w, int64_t row, int64_t input) {
        const int64_t at = input * BITS;
        const int shift = int(at % 32);
        uint32_t found = word_at(line_of(w.data, at / 32, w.beside->data_stride), row) >> shift;
        if (shift + BITS > 32) found |= word_at(line_of(w.data, at / 32 + 1, w.beside->data_stride), row) << (32 - shift);
        return found & ((1 << BITS) - 1);
    }
    // Zeros of n rows from a multiple of 32 on.
    static inline void zeros(const Matrix& w, int64_t group, int64_t first_row, int64_t n, float* to) {
        const uint8_t* line = line_of(w.beside->zeros, group, w.beside->zero_stride) + first_row / 32 * BITS * 4;
        const uint32_t added = w.beside->added;
        for (int64_t r = 0; r < n; r++) {
            const int64_t at = r * BITS;
            if (BITS == 3) to[r] = float((bits_at(line, at, 3) + added) & 7);
            else to[r] = float((word_at(line, at / 32) + added) >> (at % 32) & ((1 << BITS) - 1));
        }
    }
};

struct Awq {
    static constexpr int SHIFTS[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of outputs 0 to 7 in a word

    template <class F>
    static inline void unit(const Matrix& w, int64_t first_row, int64_t n_rows, int64_t from, int64_t n, F rows) {
        const Bytes16 order = {0, 2, 16, 18, 1, 3, 17, 19, 4, 6, 20, 22, 5, 7, 21, 23};  // among lower, upper nibbles
        uint8_t padded[ROWS / 2] = {};
        alignas(64) int8_t codes[ROWS];
        for (int64_t i = 0; i < n; i++) {
            const uint8_t* line = line_of(w.data, from + i, w.beside->data_stride) + first_row / 2;
            if (n_rows < ROWS) line = static_cast<const uint8_t*>(memcpy(padded, line, size_t(n_rows) / 2));
            for (int64_t half = 0; half < 2; half++) {
                const Bytes16 all = Bytes<Bytes16>(line + half * 16).v, low = all & 15, high = all >> 4;
                const Bytes16 first = __builtin_shuffle(low, high, order), last = __builtin_shuffle(low, high, order + 8);
                memcpy(codes + half * 32, &first, 16);
                memcpy(codes + half * 32 + 16, &last, 16);
            }
            for (int64_t r = 0; r < ROWS; r += W) rows(r)(i, load_i8(codes + r));
        }
    }
    template <class F>
    static inline void lines_of(const Matrix& w, int64_t first_row, int64_t from, int64_t n, F each) {
        for (int64_t i = from; i < least(from + n, w.in); i++)
            each(line_of(w.data, i, w.beside->data_stride) + first_row / 2, ROWS / 2);
    }
    static inline uint32_t nibble(const void* words, int64_t row) {
        return word_at(words, row / 8) >> SHIFTS[row % 8] & 15;
    }
    static inline uint32_t code(const Matrix& w, int64_t row, int64_t input) {
        return nibble(line_of(w.data, input, w.beside->data_stride), row);
    }
    static inline void zeros(const Matrix& w, int64_t group, int64_t first_row, int64_t n, float* to) {
        const uint8_t* line = line_of(w.beside->zeros, group, w.beside->zero_stride);
        for (int64_t r = 0; r < n; r++) to[r] = float(nibble(line, first_row + r));
    }
};

// Calls f.operator()<Format>() for a format that lies inputs first.
template <class F>
static inline auto by_turned(Format format, F f) {
    switch (format) {
        case Format::gptq_2: return f.template operator()<Gptq<2>>();
        case Format::gptq_3: return f.template operator()<Gptq<3>>();
        case Format::gptq_4: return f.template operator()<Gptq<4>>();
        case Format::gptq_8: return f.template operator()<Gptq<8>>();
        default: return f.template operator()<Awq>();
    }
}

// Calls f(scales) with the scales as the numbers they are.
template <class F>
static inline auto by_scales(const Beside& beside, F f) {
    switch (beside.scale_format) {
        case Format::f16: return f(static_cast<const f16*>(beside.scales));
        case Format::bf16: return f(static_cast<const bf16*>(beside.scales));
        default: return f(static_cast<const float*>(beside.scales));
    }
}

static inline int64_t group_of(const Beside& beside, int64_t input) {
    return beside.groups ? beside.groups[input] : input / beside.group_inputs;
}

// 64 rows of a weight that lies inputs first, with scales and zeros as floats: `spare`, of turned_spare(w) floats.
template <class Codes>
struct TurnedRows {
    const Matrix& w;
    int64_t first_row, n_rows;
    float *scales, *zeros;  // [G][64]

    TurnedRows(const Matrix& weight, int64_t row, float* spare) : w(weight), first_row(row) {
        n_rows = least(ROWS, w.out - row);
        scales = spare, zeros = spare + w.beside->n_groups * ROWS;
        memset(spare, 0, size_t(2 * w.beside->n_groups * ROWS) * sizeof(float));
        by_scales(*w.beside, [&](auto* stored) {
            for (int64_t g = 0; g < w.beside->n_groups; g++) {
                widen_row(stored + g * w.beside->scale_stride + row, n_rows, scales + g * ROWS);
                Codes::zeros(w, g, row, n_rows, zeros + g * ROWS);
            }
        });
    }

    // The numbers [n][64] of inputs from to from + n; n is up to RUN, `from` a multiple of it.
    void decode(int64_t from, int64_t n, float* to) const {
        // Stretches lie pages apart, where no processor looks by itself.
        Codes::lines_of(w, first_row, from + 2 * RUN, RUN, [](const uint8_t* at, int64_t bytes) {
            for (int64_t i = 0; i < bytes; i += LINE) prefetch_far(at + i);
        });
        by_scales(*w.beside, [&]<class T>(const T*) {
            for (int64_t i = 0; i < n; i += 32) decode_unit<T>(from + i, least(32, n - i), to + i * ROWS);
        });
    }

    template <class T>
    void decode_unit(int64_t from, int64_t n, float* to) const {
        const float *all_scales = scales, *all_zeros = zeros;
        int64_t at[32];
        bool is_same = true;
        for (int64_t i = 0; i < n; i++) {
            // A quotient only where the group may change.
            at[i] = i && !w.beside->groups && w.beside->group_inputs % 32 == 0 ? at[i - 1]
                                                                                : group_of(*w.beside, from + i) * ROWS;
            is_same = is_same && at[i] == at[0];
        }
        auto number = [](F32 codes, F32 zero, F32 scale) { return rounded(mul(sub(codes, zero), scale), T()); };
        if (is_same)
            return Codes::unit(w, first_row, n_rows, from, n, [=, first = at[0]](int64_t r) {
                const F32 zero = load(all_zeros + first + r), scale = load(all_scales + first + r);
                return [=](int64_t i, F32 codes) { store(to + i * ROWS + r, number(codes, zero, scale)); };
            });
        plain_codes(from, n, to);
        for (int64_t i = 0; i < n; i++)
            for (int64_t r = 0; r < ROWS; r += W) {
                float* here = to + i * ROWS + r;
                store(here, number(load(here), load(all_zeros + at[i] + r), load(all_scales + at[i] + r)));
            }
    }

    // One function for scales of any kind: it is long, all inputs of a unit being unrolled.
    __attribute__((noinline)) void plain_codes(int64_t from, int64_t n, float* to) const {
        Codes::unit(w, first_row, n_rows, from, n, [=](int64_t r) {
            return [=](int64_t i, F32 codes) { store(to + i * ROWS + r, codes); };
        });
    }
};

// Floats that TurnedRows needs.
static inline int64_t turned_spare(const Matrix& w) { return w.beside ? 2 * w.beside->n_groups * ROWS : 0; }

template <class Codes>
static float turned_at(const Matrix& w, int64_t row, int64_t input) {
    const int64_t group = group_of(*w.beside, input);
    return by_scales(*w.beside, [&]<class T>(const T* scales) {
        float zeros[32];  // from the multiple of 32 below the row
        Codes::zeros(w, group, row / 32 * 32, row % 32 + 1, zeros);
        const float code = float(Codes::code(w, row, input)) - zeros[row % 32];
        float result[W];
        store(result, rounded(set1(code * widen(scales[group * w.beside->scale_stride + row])), T()));
        return result[0];
    });
}

}  // namespace octuor::OCTUOR_ISA
