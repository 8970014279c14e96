// llama.cpp's number formats, as GGUF files hold them: rows of blocks, each block with its scales beside its codes.
//
// A row of codes is read as it lies. A format is one struct:
//   INPUTS, BYTES   of a block
//   GROUP           inputs that share a scale
//   OFFSETS         whether a group has an offset too
//   unpack(block, to)  to.codes, to.scales and to.offsets, so that a weight is scale * code - offset
// The product of scale and code is exact in float32 in every format here (11 bits of d, at most 8 of a sub-scale and 8
// of a code, fewer together), so the one rounding is that of the offset, as in llama.cpp's own C and in its package.
// Layouts: ggml-common.h of llama.cpp, and the gguf package's quants.py.
#pragma once

namespace octuor::OCTUOR_ISA {

// Where a block's codes go, and a scale and an offset for each group of them.
struct BlockCodes {
    int8_t* codes;
    float *scales, *offsets;
};

// Vectors of bytes that the compiler knows on every machine; by reference, for not every ABI passes them.
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t Bytes32 __attribute__((vector_size(32)));

template <class V>
struct Bytes {
    V v;
    explicit Bytes(const void* p) { memcpy(&v, p, sizeof v); }
};

static inline float half_at(const uint8_t* p) {
    f16 x;
    memcpy(&x, p, 2);
    return widen(x);
}

// Codes of 4 bits as most formats have them: those in the lower nibbles of V's bytes, then those in the upper; plus
// `start`, a negative number of 8 bits.
template <class V>
static inline void nibbles(const uint8_t* from, int start, int8_t* to) {
    const V all = Bytes<V>(from).v, low = (all & 15) + uint8_t(start), high = (all >> 4) + uint8_t(start);
    memcpy(to, &low, sizeof low);
    memcpy(to + sizeof low, &high, sizeof high);
}
// 32 of them through a table of 16 numbers.
static inline void looked_up(const uint8_t* from, const int8_t* table, int8_t* to) {
    const Bytes16 numbers = Bytes<Bytes16>(table).v, codes = Bytes<Bytes16>(from).v;
    const Bytes16 low = __builtin_shuffle(numbers, codes & 15), high = __builtin_shuffle(numbers, codes >> 4);
    memcpy(to, &low, 16);
    memcpy(to + 16, &high, 16);
}
// 32 codes of 5 bits: nibbles, and bit i of the word at `fifths` above that of code i.
static inline void nibbles_and_fifths(const uint8_t* from, const uint8_t* fifths, int start, int8_t* to) {
    const Bytes16 first_8 = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const Bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    Bytes16 word = {};
    memcpy(&word, fifths, 4);
    const Bytes16 all = Bytes<Bytes16>(from).v;
    Bytes16 low = (Bytes16)((__builtin_shuffle(word, first_8) & bit) == bit) & 16;
    Bytes16 high = (Bytes16)((__builtin_shuffle(word, first_8 + 2) & bit) == bit) & 16;
    low = (low | (all & 15)) + uint8_t(start), high = (high | (all >> 4)) + uint8_t(start);
    memcpy(to, &low, 16);
    memcpy(to + 16, &high, 16);
}

struct Q4_0 {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 18, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        nibbles<Bytes16>(block + 2, -8, to.codes);
        to.scales[0] = half_at(block);
    }
};

struct Q4_1 {  // d, m, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 20, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        nibbles<Bytes16>(block + 4, 0, to.codes);
        to.scales[0] = half_at(block), to.offsets[0] = -half_at(block + 2);
    }
};

struct Q5_0 {  // d, 32 fifth bits, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 22, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        nibbles_and_fifths(block + 6, block + 2, -16, to.codes);
        to.scales[0] = half_at(block);
    }
};

struct Q5_1 {  // d, m, 32 fifth bits, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 24, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        nibbles_and_fifths(block + 8, block + 4, 0, to.codes);
        to.scales[0] = half_at(block), to.offsets[0] = -half_at(block + 2);
    }
};

struct Q8_0 {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 34, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        memcpy(to.codes, block + 2, 32);
        to.scales[0] = half_at(block);
    }
};

// 128 codes of 2 bits: those in the lowest bits of 32 bytes, then those two bits higher, and so on. Bits of `thirds`
// from `bit` on, of 32 codes each, are worth 4 more; without them, null, nothing is.
static inline void pairs(const uint8_t* from, const uint8_t* thirds, int bit, int8_t* to) {
    const Bytes32 all = Bytes<Bytes32>(from).v;
    for (int s = 0; s < 4; s++) {
        Bytes32 codes = all >> (2 * s) & 3;
        if (thirds) codes = (codes | (Bytes<Bytes32>(thirds).v >> (bit + s) & 1) << 2) - 4;
        memcpy(to + s * 32, &codes, 32);
    }
}

struct Q2_K {  // 16 bytes with the scale and the offset of a group, 256 codes, d, d of the offsets
    static constexpr int64_t INPUTS = 256, BYTES = 84, GROUP = 16;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        pairs(block + 16, nullptr, 0, to.codes);
        pairs(block + 48, nullptr, 0, to.codes + 128);
        const float d = half_at(block + 80), least = half_at(block + 82);
        for (int g = 0; g < 16; g++) {
            to.scales[g] = d * float(block[g] & 15);
            to.offsets[g] = least * float(block[g] >> 4);
        }
    }
};

struct Q3_K {  // 256 third bits, 256 codes, 16 scales of 6 bits, d
    static constexpr int64_t INPUTS = 256, BYTES = 110, GROUP = 16;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        pairs(block + 32, block, 0, to.codes);
        pairs(block + 64, block, 4, to.codes + 128);
        const uint8_t *low = block + 96, *high = block + 104;
        const float d = half_at(block + 108);
        for (int g = 0; g < 16; g++) {
            const int scale = (low[g % 8] >> (g / 8 * 4) & 15) | (high[g % 4] >> (g / 4 * 2) & 3) << 4;
            to.scales[g] = d * float(scale - 32);
        }
    }
};

// 8 scales and 8 offsets of 6 bits in 12 bytes, times d and d of the offsets, which lie before them.
static inline void k_scales(const uint8_t* block, BlockCodes to) {
    uint32_t first, second, rest;
    memcpy(&first, block + 4, 4), memcpy(&second, block + 8, 4), memcpy(&rest, block + 12, 4);
    const uint32_t words[4] = {first & 0x3f3f3f3f, (rest & 0x0f0f0f0f) | (first >> 2 & 0x30303030),
                               second & 0x3f3f3f3f, (rest >> 4 & 0x0f0f0f0f) | (second >> 2 & 0x30303030)};
    uint8_t bytes[16];
    memcpy(bytes, words, 16);
    const float d = half_at(block), least = half_at(block + 2);
    for (int g = 0; g < 8; g++) to.scales[g] = d * float(bytes[g]);
    for (int g = 0; g < 8; g++) to.offsets[g] = least * float(bytes[8 + g]);
}

struct Q4_K {  // d, d of the offsets, k_scales, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 144, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        for (int s = 0; s < 4; s++) nibbles<Bytes32>(block + 16 + s * 32, 0, to.codes + s * 64);
        k_scales(block, to);
    }
};

struct Q5_K {  // d, d of the offsets, k_scales, 256 fifth bits, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 176, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        const Bytes32 fifths = Bytes<Bytes32>(block + 16).v;
        for (int s = 0; s < 4; s++) {
            const Bytes32 all = Bytes<Bytes32>(block + 48 + s * 32).v;
            const Bytes32 low = (all & 15) | (fifths >> (2 * s) & 1) << 4;
            const Bytes32 high = all >> 4 | (fifths >> (2 * s + 1) & 1) << 4;
            memcpy(to.codes + s * 64, &low, 32);
            memcpy(to.codes + s * 64 + 32, &high, 32);
        }
        k_scales(block, to);
    }
};

struct Q6_K {  // 256 times four lower bits, 256 times two upper bits, 16 scales, d
    static constexpr int64_t INPUTS = 256, BYTES = 210, GROUP = 16;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        for (int half = 0; half < 2; half++) {
            const Bytes32 upper = Bytes<Bytes32>(block + 128 + half * 32).v;
            for (int s = 0; s < 2; s++) {
                const Bytes32 lower = Bytes<Bytes32>(block + half * 64 + s * 32).v;
                const Bytes32 first = ((lower & 15) | (upper >> (2 * s) & 3) << 4) - 32;
                const Bytes32 second = (lower >> 4 | (upper >> (4 + 2 * s) & 3) << 4) - 32;
                memcpy(to.codes + half * 128 + s * 32, &first, 32);
                memcpy(to.codes + half * 128 + 64 + s * 32, &second, 32);
            }
        }
        const float d = half_at(block + 208);
        for (int g = 0; g < 16; g++) to.scales[g] = d * float(int8_t(block[192 + g]));
    }
};

alignas(16) constexpr int8_t IQ4_NUMBERS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

struct IQ4_NL {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 18, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        looked_up(block + 2, IQ4_NUMBERS, to.codes);
        to.scales[0] = half_at(block);
    }
};

struct IQ4_XS {  // d, 8 times two upper bits of a scale, 8 times its four lower bits, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 136, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        for (int g = 0; g < 8; g++) looked_up(block + 8 + g * 16, IQ4_NUMBERS, to.codes + g * 32);
        const float d = half_at(block);
        uint16_t high;
        memcpy(&high, block + 2, 2);
        for (int g = 0; g < 8; g++) {
            const int scale = (block[4 + g / 2] >> (g % 2 * 4) & 15) | (high >> (2 * g) & 3) << 4;
            to.scales[g] = d * float(scale - 32);
        }
    }
};

struct MXFP4 {  // an exponent, 32 codes of 1 bit sign, 2 exponent, 1 fraction: here twice their numbers
    static constexpr int64_t INPUTS = 32, BYTES = 17, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* __restrict block, BlockCodes to) {
        alignas(16) static constexpr int8_t NUMBERS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
        looked_up(block + 1, NUMBERS, to.codes);
        const uint32_t half = block[0] < 2 ? 0x00200000u << block[0] : uint32_t(block[0] - 1) << 23;
        memcpy(&to.scales[0], &half, 4);
    }
};

// A block's weights.
template <class Block>
static inline void block_weights(const uint8_t* block, float* to) {
    constexpr int64_t G = Block::INPUTS / Block::GROUP;
    alignas(64) int8_t codes[Block::INPUTS];
    alignas(64) float scales[G], offsets[G];
    Block::unpack(block, {codes, scales, offsets});
    for (int64_t g = 0; g < G; g++) {
        const F32 scale = set1(scales[g]), offset = set1(Block::OFFSETS ? offsets[g] : 0.0f);
        for (int64_t i = g * Block::GROUP; i < (g + 1) * Block::GROUP; i += W) {
            const F32 exact = mul(scale, load_i8(codes + i));
            store(to + i, Block::OFFSETS ? sub(exact, offset) : exact);
        }
    }
}

// Where a row begins.
template <class Block>
static inline const uint8_t* row_of_blocks(const Matrix& w, int64_t row) {
    const auto* data = static_cast<const uint8_t*>(w.data);
    if (!w.beside) return data + row * (w.in / Block::INPUTS * Block::BYTES);
    const int64_t half = row / w.beside->half_head, *strides = w.beside->row_strides;
    return data + half / 2 * strides[0] + half % 2 * strides[1] + row % w.beside->half_head * strides[2];
}

template <class Block>
static void decode_blocks(const Matrix& w, int64_t row, float* to) {
    const uint8_t* block = row_of_blocks<Block>(w, row);
    for (int64_t i = 0; i < w.in; i += Block::INPUTS, block += Block::BYTES) block_weights<Block>(block, to + i);
}

// Calls f.operator()<Block>() for a format of blocks.
template <class F>
static inline auto by_block(Format format, F f) {
    switch (format) {
        case Format::gguf_q4_0: return f.template operator()<Q4_0>();
        case Format::gguf_q4_1: return f.template operator()<Q4_1>();
        case Format::gguf_q5_0: return f.template operator()<Q5_0>();
        case Format::gguf_q5_1: return f.template operator()<Q5_1>();
        case Format::gguf_q8_0: return f.template operator()<Q8_0>();
        case Format::gguf_q2_k: return f.template operator()<Q2_K>();
        case Format::gguf_q3_k: return f.template operator()<Q3_K>();
        case Format::gguf_q4_k: return f.template operator()<Q4_K>();
        case Format::gguf_q5_k: return f.template operator()<Q5_K>();
        case Format::gguf_q6_k: return f.template operator()<Q6_K>();
        case Format::gguf_iq4_nl: return f.template operator()<IQ4_NL>();
        case Format::gguf_iq4_xs: return f.template operator()<IQ4_XS>();
        default: return f.template operator()<MXFP4>();
    }
}

}  // namespace octuor::OCTUOR_ISA
