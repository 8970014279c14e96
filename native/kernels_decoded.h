// Other programs' weights, decoded on the way to the products of plain ones.
//
// What decodes a row is a function, so that the loops exist once; one call decodes hundreds of weights. A format is a
// struct (formats_gguf.h) and a row here.
#pragma once

namespace octuor::OCTUOR_ISA {

struct RowDecoder {
    // Inputs from to from + n of a row, both multiples of block_inputs, or n up to the end of the row.
    void (*decode)(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to);
    int64_t block_inputs, block_bytes;
};

template <class Block>
constexpr RowDecoder BLOCKS = {decode_blocks<Block>, Block::INPUTS, Block::BYTES};

static const RowDecoder& row_decoder(Format format) {
    switch (format) {
        case Format::gguf_q4_0: return BLOCKS<Q4_0>;
        case Format::gguf_q4_1: return BLOCKS<Q4_1>;
        case Format::gguf_q5_0: return BLOCKS<Q5_0>;
        case Format::gguf_q5_1: return BLOCKS<Q5_1>;
        case Format::gguf_q8_0: return BLOCKS<Q8_0>;
        case Format::gguf_q2_k: return BLOCKS<Q2_K>;
        case Format::gguf_q3_k: return BLOCKS<Q3_K>;
        case Format::gguf_q4_k: return BLOCKS<Q4_K>;
        case Format::gguf_q5_k: return BLOCKS<Q5_K>;
        case Format::gguf_q6_k: return BLOCKS<Q6_K>;
        case Format::gguf_iq4_nl: return BLOCKS<IQ4_NL>;
        case Format::gguf_iq4_xs: return BLOCKS<IQ4_XS>;
        default: return BLOCKS<MXFP4>;
    }
}

// As PlainRows, of weights that lie otherwise: decoded where they stay in L1 until they have met all tokens.
struct DecodedRows {
    using Number = float;
    static constexpr int64_t PANEL = 512;  // a multiple of every block
    const Matrix& w;
    const RowDecoder& decoder;
    alignas(64) float numbers[ROWS_AT_ONCE][PANEL];

    explicit DecodedRows(const Matrix& weight) : w(weight), decoder(row_decoder(weight.format)) {}

    template <int R>
    const uint8_t* get(int64_t row, int64_t from, int64_t n, bool row_by_row, const float* (&rows)[R]) {
        constexpr int64_t LEAST_AHEAD = 8192;
        const int64_t row_bytes = w.in / decoder.block_inputs * decoder.block_bytes;
        const int64_t bytes = n / decoder.block_inputs * decoder.block_bytes;
        const int64_t done = R * (from / decoder.block_inputs * decoder.block_bytes);
        const int64_t ahead = R * row_bytes > LEAST_AHEAD ? R * row_bytes : LEAST_AHEAD;
        const uint8_t* next = static_cast<const uint8_t*>(w.data) + row * row_bytes + done + ahead;
        for (int r = 0; r < R; r++) {
            if (row_by_row)
                for (int64_t at = 0; at < bytes; at += LINE) prefetch_far(next + r * bytes + at);
            decoder.decode(w, row + r, from, n, numbers[r]);
            rows[r] = numbers[r];
        }
        return nullptr;
    }
};

}  // namespace octuor::OCTUOR_ISA
