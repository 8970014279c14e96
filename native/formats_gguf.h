// llama.cpp's number formats, as GGUF files hold them: rows of blocks, each block with its scales beside its codes.
//
// A row of codes is read as it lies. A format is one struct:
//   INPUTS, BYTES   of a block
//   GROUP           inputs that share a scale
//   OFFSETS         whether a group has an offset too
//   unpack(block, to)  to->codes, to->scales and to->offsets, so that a weight is scale * code - offset
// The product of scale and code is exact in float32 in every format here (11 bits of d, at most 8 of a sub-scale and 8
// of a code, fewer together), so the one rounding is that of the offset, as in llama.cpp's own C and in its package.
// Layouts: ggml-common.h of llama.cpp, and the gguf package's quants.py.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int64_t MOST_GROUPS = 16;

struct BlockCodes {
    alignas(64) int8_t codes[256];
    alignas(64) float scales[MOST_GROUPS];
    alignas(64) float offsets[MOST_GROUPS];
};

// Vectors of 16 bytes that the compiler knows on every machine.
typedef uint8_t Bytes16 __attribute__((vector_size(16)));

static inline Bytes16 load_16(const uint8_t* p) {
    Bytes16 x;
    memcpy(&x, p, 16);
    return x;
}
static inline float half_at(const uint8_t* p) {
    f16 x;
    memcpy(&x, p, 2);
    return widen(x);
}

// 32 codes of 4 bits as most formats have them: those in the lower nibbles of 16 bytes, then those in the upper.
static inline void nibbles_of_16(const uint8_t* from, int8_t* to) {
    for (int i = 0; i < 16; i++) to[i] = int8_t(from[i] & 15), to[16 + i] = int8_t(from[i] >> 4);
}
// The same through a table of 16 numbers.
static inline void looked_up_16(const uint8_t* from, const int8_t* table, int8_t* to) {
    const Bytes16 numbers = load_16(reinterpret_cast<const uint8_t*>(table)), codes = load_16(from);
    const Bytes16 low = __builtin_shuffle(numbers, codes & 15), high = __builtin_shuffle(numbers, codes >> 4);
    memcpy(to, &low, 16);
    memcpy(to + 16, &high, 16);
}
// Fifth bits: bit i of the word at p to code i of 32.
static inline void fifth_bits(const uint8_t* p, int8_t* codes) {
    uint32_t word;
    memcpy(&word, p, 4);
    for (int i = 0; i < 32; i++) codes[i] = int8_t(codes[i] | int((word >> i & 1) << 4));
}

struct Q4_0 {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 18, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        nibbles_of_16(block + 2, to->codes);
        for (int i = 0; i < 32; i++) to->codes[i] = int8_t(to->codes[i] - 8);
        to->scales[0] = half_at(block);
    }
};

struct Q4_1 {  // d, m, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 20, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        nibbles_of_16(block + 4, to->codes);
        to->scales[0] = half_at(block), to->offsets[0] = -half_at(block + 2);
    }
};

struct Q5_0 {  // d, 32 fifth bits, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 22, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        nibbles_of_16(block + 6, to->codes);
        fifth_bits(block + 2, to->codes);
        for (int i = 0; i < 32; i++) to->codes[i] = int8_t(to->codes[i] - 16);
        to->scales[0] = half_at(block);
    }
};

struct Q5_1 {  // d, m, 32 fifth bits, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 24, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        nibbles_of_16(block + 8, to->codes);
        fifth_bits(block + 4, to->codes);
        to->scales[0] = half_at(block), to->offsets[0] = -half_at(block + 2);
    }
};

struct Q8_0 {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 34, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        memcpy(to->codes, block + 2, 32);
        to->scales[0] = half_at(block);
    }
};

// 128 codes of 2 bits: those in the lowest bits of 32 bytes, then those two bits higher, and so on.
static inline void pairs_of_32(const uint8_t* from, int8_t* to) {
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < 32; i++) to[s * 32 + i] = int8_t(from[i] >> (2 * s) & 3);
}

struct Q2_K {  // 16 bytes with the scale and the offset of a group, 256 codes, d, d of the offsets
    static constexpr int64_t INPUTS = 256, BYTES = 84, GROUP = 16;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        pairs_of_32(block + 16, to->codes);
        pairs_of_32(block + 48, to->codes + 128);
        const float d = half_at(block + 80), least = half_at(block + 82);
        for (int g = 0; g < 16; g++) {
            to->scales[g] = d * float(block[g] & 15);
            to->offsets[g] = least * float(block[g] >> 4);
        }
    }
};

struct Q3_K {  // 256 third bits, 256 codes, 16 scales of 6 bits, d
    static constexpr int64_t INPUTS = 256, BYTES = 110, GROUP = 16;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        pairs_of_32(block + 32, to->codes);
        pairs_of_32(block + 64, to->codes + 128);
        for (int s = 0; s < 8; s++)
            for (int i = 0; i < 32; i++)
                to->codes[s * 32 + i] = int8_t(to->codes[s * 32 + i] + int(block[i] >> s & 1) * 4 - 4);
        const uint8_t *low = block + 96, *high = block + 104;
        const float d = half_at(block + 108);
        for (int g = 0; g < 16; g++) {
            const int scale = (low[g % 8] >> (g / 8 * 4) & 15) | (high[g % 4] >> (g / 4 * 2) & 3) << 4;
            to->scales[g] = d * float(scale - 32);
        }
    }
};

// 8 scales and 8 offsets of 6 bits in 12 bytes, times d and d of the offsets, which lie before them.
static inline void k_scales(const uint8_t* block, BlockCodes* to) {
    uint32_t first, second, rest;
    memcpy(&first, block + 4, 4), memcpy(&second, block + 8, 4), memcpy(&rest, block + 12, 4);
    const uint32_t words[4] = {first & 0x3f3f3f3f, (rest & 0x0f0f0f0f) | (first >> 2 & 0x30303030),
                               second & 0x3f3f3f3f, (rest >> 4 & 0x0f0f0f0f) | (second >> 2 & 0x30303030)};
    uint8_t bytes[16];
    memcpy(bytes, words, 16);
    const float d = half_at(block), least = half_at(block + 2);
    for (int g = 0; g < 8; g++) to->scales[g] = d * float(bytes[g]);
    for (int g = 0; g < 8; g++) to->offsets[g] = least * float(bytes[8 + g]);
}

struct Q4_K {  // d, d of the offsets, k_scales, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 144, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++) {
                to->codes[s * 64 + i] = int8_t(block[16 + s * 32 + i] & 15);
                to->codes[s * 64 + 32 + i] = int8_t(block[16 + s * 32 + i] >> 4);
            }
        k_scales(block, to);
    }
};

struct Q5_K {  // d, d of the offsets, k_scales, 256 fifth bits, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 176, GROUP = 32;
    static constexpr bool OFFSETS = true;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        const uint8_t *high = block + 16, *low = block + 48;
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++) {
                to->codes[s * 64 + i] = int8_t((low[s * 32 + i] & 15) | (high[i] >> (2 * s) & 1) << 4);
                to->codes[s * 64 + 32 + i] = int8_t(low[s * 32 + i] >> 4 | (high[i] >> (2 * s + 1) & 1) << 4);
            }
        k_scales(block, to);
    }
};

struct Q6_K {  // 256 times four lower bits, 256 times two upper bits, 16 scales, d
    static constexpr int64_t INPUTS = 256, BYTES = 210, GROUP = 16;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        for (int half = 0; half < 2; half++) {
            const uint8_t *low = block + half * 64, *high = block + 128 + half * 32;
            int8_t* codes = to->codes + half * 128;
            for (int s = 0; s < 2; s++)
                for (int i = 0; i < 32; i++) {
                    codes[s * 32 + i] = int8_t(((low[s * 32 + i] & 15) | (high[i] >> (2 * s) & 3) << 4) - 32);
                    codes[64 + s * 32 + i] = int8_t((low[s * 32 + i] >> 4 | (high[i] >> (4 + 2 * s) & 3) << 4) - 32);
                }
        }
        const float d = half_at(block + 208);
        for (int g = 0; g < 16; g++) to->scales[g] = d * float(int8_t(block[192 + g]));
    }
};

alignas(16) constexpr int8_t IQ4_NUMBERS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

struct IQ4_NL {  // d, 32 codes
    static constexpr int64_t INPUTS = 32, BYTES = 18, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        looked_up_16(block + 2, IQ4_NUMBERS, to->codes);
        to->scales[0] = half_at(block);
    }
};

struct IQ4_XS {  // d, 8 times two upper bits of a scale, 8 times its four lower bits, 256 codes
    static constexpr int64_t INPUTS = 256, BYTES = 136, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        for (int g = 0; g < 8; g++) looked_up_16(block + 8 + g * 16, IQ4_NUMBERS, to->codes + g * 32);
        const float d = half_at(block);
        uint16_t high;
        memcpy(&high, block + 2, 2);
        for (int g = 0; g < 8; g++) {
            const int scale = (block[4 + g / 2] >> (g % 2 * 4) & 15) | (high >> (2 * g) & 3) << 4;
            to->scales[g] = d * float(scale - 32);
        }
    }
};

struct MXFP4 {  // an exponent, 32 codes of 1 bit sign, 2 exponent, 1 fraction: here twice their numbers
    static constexpr int64_t INPUTS = 32, BYTES = 17, GROUP = 32;
    static constexpr bool OFFSETS = false;
    static inline void unpack(const uint8_t* block, BlockCodes* to) {
        alignas(16) static constexpr int8_t NUMBERS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
        looked_up_16(block + 1, NUMBERS, to->codes);
        const uint32_t half = block[0] < 2 ? 0x00200000u << block[0] : uint32_t(block[0] - 1) << 23;
        memcpy(&to->scales[0], &half, 4);
    }
};

// A block's weights.
template <class Block>
static inline void block_weights(const uint8_t* block, float* to) {
    BlockCodes all;
    Block::unpack(block, &all);
    for (int64_t g = 0; g < Block::INPUTS / Block::GROUP; g++) {
        const F32 scale = set1(all.scales[g]), offset = set1(Block::OFFSETS ? all.offsets[g] : 0.0f);
        for (int64_t i = g * Block::GROUP; i < (g + 1) * Block::GROUP; i += W) {
            const F32 exact = mul(scale, load_i8(all.codes + i));
            store(to + i, Block::OFFSETS ? sub(exact, offset) : exact);
        }
    }
}

// n inputs of a row from input `from` on, both multiples of a block's.
template <class Block>
static void decode_blocks(const Matrix& w, int64_t row, int64_t from, int64_t n, float* to) {
    const auto* block = static_cast<const uint8_t*>(w.data) + (row * w.in + from) / Block::INPUTS * Block::BYTES;
    for (int64_t i = 0; i < n; i += Block::INPUTS, block += Block::BYTES) block_weights<Block>(block, to + i);
}

}  // namespace octuor::OCTUOR_ISA
