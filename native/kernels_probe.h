// What one instruction set can do at most: loops of its best multiply-add on registers alone.
//
// A round is TWELVE of them, each adding to a register of its own, which is more than any CPU has in flight.
// Assembly, so that no compiler improves on it; operands are ones, which no unit skips. A set is known by what its
// compiler flags define, as in vec_*.h; `feature` names what a machine must have beyond that.
#pragma once

#include "kernels.h"

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octuor::OCTUOR_ISA {

namespace {

alignas(64) const float ONES[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

#define OCTUOR_TWELVE(I) I(0) I(1) I(2) I(3) I(4) I(5) I(6) I(7) I(8) I(9) I(10) I(11)

#if defined(__x86_64__)

#define OCTUOR_LOOP(LOAD, INSTRUCTIONS, END)                                                                       \
    __asm__ volatile(LOAD "(%1), %%" OCTUOR_REGISTER "14\n" LOAD "(%1), %%" OCTUOR_REGISTER "15\n"                 \
                     ".p2align 6\n1:\n" INSTRUCTIONS "dec %0\njnz 1b\n" END                                        \
                     : "+r"(rounds)                                                                                \
                     : "r"(ONES)                                                                                   \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
#define OCTUOR_TO(OP, N) OP " %%" OCTUOR_REGISTER "14, %%" OCTUOR_REGISTER "15, %%" OCTUOR_REGISTER #N "\n"
#define OCTUOR_PAIRS(N)                                      \
    OCTUOR_TO("vpmaddubsw", 12)                              \
    "vpmaddwd %%" OCTUOR_REGISTER "14, %%" OCTUOR_REGISTER "12, %%" OCTUOR_REGISTER "12\n" \
    "vpaddd %%" OCTUOR_REGISTER "12, %%" OCTUOR_REGISTER #N ", %%" OCTUOR_REGISTER #N "\n"
#define OCTUOR_DOT(N) OCTUOR_TO(OCTUOR_VEX "vpdpbusd", N)
#define OCTUOR_FMA(N) OCTUOR_TO("vfmadd231ps", N)
#define OCTUOR_BF16(N) OCTUOR_TO("vdpbf16ps", N)

#if defined(__AVX512F__)
#define OCTUOR_REGISTER "zmm"
#define OCTUOR_VEX
constexpr int64_t BYTES = 64;
#elif defined(__AVX2__)
#define OCTUOR_REGISTER "ymm"
#define OCTUOR_VEX "%{vex%} "
constexpr int64_t BYTES = 32;
#else
#define OCTUOR_REGISTER "xmm"
constexpr int64_t BYTES = 16;
#endif

#if defined(__AVX2__)

void f32_rounds(int64_t rounds) { OCTUOR_LOOP("vmovups ", OCTUOR_TWELVE(OCTUOR_FMA), "vzeroupper\n"); }
const Peak f32_peak = {"vfmadd231ps", nullptr, 12 * 2 * BYTES / 4, f32_rounds};

#if defined(__AMX_INT8__)
// Rows and bytes a row of tiles 0 to 5: 16 rows of 64 bytes. Intel SDM volume 1, 18.3.2.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
};
void int8_rounds(int64_t rounds) {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // Linux, arch_prctl: once a process is enough
    syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
    const TileShapes shapes;
    __asm__ volatile(
        "ldtilecfg (%1)\n.p2align 6\n1:\n"
        "tdpbusd %%tmm5, %%tmm4, %%tmm0\ntdpbusd %%tmm5, %%tmm4, %%tmm1\n"
        "tdpbusd %%tmm5, %%tmm4, %%tmm2\ntdpbusd %%tmm5, %%tmm4, %%tmm3\n"
        "dec %0\njnz 1b\ntilerelease\n"
        : "+r"(rounds)
        : "r"(&shapes)
        : "cc", "memory");
}
const Peak int8_peak = {"tdpbusd", "amx-int8", 4 * 2 * 16 * 16 * 64, int8_rounds};
#elif defined(__AVX512VNNI__) || defined(__AVXVNNI__)
void int8_rounds(int64_t rounds) { OCTUOR_LOOP("vmovups ", OCTUOR_TWELVE(OCTUOR_DOT), "vzeroupper\n"); }
const Peak int8_peak = {"vpdpbusd", nullptr, 12 * 2 * BYTES, int8_rounds};
#else
void int8_rounds(int64_t rounds) { OCTUOR_LOOP("vmovups ", OCTUOR_TWELVE(OCTUOR_PAIRS), "vzeroupper\n"); }
const Peak int8_peak = {"vpmaddubsw, vpmaddwd, vpaddd", nullptr, 12 * 2 * BYTES, int8_rounds};
#endif

#if defined(__AVX512F__)
void bf16_rounds(int64_t rounds) { OCTUOR_LOOP("vmovups ", OCTUOR_TWELVE(OCTUOR_BF16), "vzeroupper\n"); }
const Peak bf16_peak = {"vdpbf16ps", "avx512bf16", 12 * 2 * BYTES / 2, bf16_rounds};
#else
const Peak bf16_peak = {};
#endif

#else  // SSE4.2

#define OCTUOR_SSE_FMA(N) "movaps %%xmm15, %%xmm12\nmulps %%xmm14, %%xmm12\naddps %%xmm12, %%xmm" #N "\n"
#define OCTUOR_SSE_PAIRS(N) \
    "movaps %%xmm15, %%xmm12\npmaddubsw %%xmm14, %%xmm12\npmaddwd %%xmm14, %%xmm12\npaddd %%xmm12, %%xmm" #N "\n"
void f32_rounds(int64_t rounds) { OCTUOR_LOOP("movups ", OCTUOR_TWELVE(OCTUOR_SSE_FMA), ""); }
void int8_rounds(int64_t rounds) { OCTUOR_LOOP("movups ", OCTUOR_TWELVE(OCTUOR_SSE_PAIRS), ""); }
const Peak f32_peak = {"mulps, addps", nullptr, 12 * 2 * BYTES / 4, f32_rounds};
const Peak int8_peak = {"pmaddubsw, pmaddwd, paddd", nullptr, 12 * 2 * BYTES, int8_rounds};
const Peak bf16_peak = {};

#endif

#elif defined(__aarch64__)

#define OCTUOR_LOOP(INSTRUCTIONS)                                                                                  \
    __asm__ volatile("ldr q14, [%1]\nldr q15, [%1]\n.p2align 6\n1:\n" INSTRUCTIONS "subs %0, %0, #1\nb.ne 1b\n"    \
                     : "+r"(rounds)                                                                                \
                     : "r"(ONES)                                                                                   \
                     : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",      \
                       "v14", "v15")
#define OCTUOR_FMA(N) "fmla v" #N ".4s, v14.4s, v15.4s\n"
#define OCTUOR_MATRIX(N) "smmla v" #N ".4s, v14.16b, v15.16b\n"
#define OCTUOR_DOT(N) "sdot v" #N ".4s, v14.16b, v15.16b\n"
#define OCTUOR_PAIRS(N) "smull v12.8h, v14.8b, v15.8b\nsadalp v" #N ".4s, v12.8h\n"
#define OCTUOR_BF16(N) "bfmmla v" #N ".4s, v14.8h, v15.8h\n"

void f32_rounds(int64_t rounds) { OCTUOR_LOOP(OCTUOR_TWELVE(OCTUOR_FMA)); }
const Peak f32_peak = {"fmla", nullptr, 12 * 2 * 4, f32_rounds};
#if defined(__ARM_FEATURE_MATMUL_INT8)
void int8_rounds(int64_t rounds) { OCTUOR_LOOP(OCTUOR_TWELVE(OCTUOR_MATRIX)); }
const Peak int8_peak = {"smmla", nullptr, 12 * 2 * 2 * 2 * 8, int8_rounds};
#elif defined(__ARM_FEATURE_DOTPROD)
void int8_rounds(int64_t rounds) { OCTUOR_LOOP(OCTUOR_TWELVE(OCTUOR_DOT)); }
const Peak int8_peak = {"sdot", nullptr, 12 * 2 * 16, int8_rounds};
#else
void int8_rounds(int64_t rounds) { OCTUOR_LOOP(OCTUOR_TWELVE(OCTUOR_PAIRS)); }
const Peak int8_peak = {"smull, sadalp", nullptr, 12 * 2 * 8, int8_rounds};
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
void bf16_rounds(int64_t rounds) { OCTUOR_LOOP(OCTUOR_TWELVE(OCTUOR_BF16)); }
const Peak bf16_peak = {"bfmmla", nullptr, 12 * 2 * 2 * 2 * 4, bf16_rounds};
#else
const Peak bf16_peak = {};
#endif

#else  // no assembly written for this machine

const Peak f32_peak = {}, int8_peak = {}, bf16_peak = {};

#endif

}  // namespace

}  // namespace octuor::OCTUOR_ISA
