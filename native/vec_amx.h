// The matrix unit of AMX: 8 tiles of 16 lines x 64 bytes, and products of bytes between them.
//
// With OCTUOR_EMULATE_AMX the same five instructions are plain C++, after their definitions in Intel's SDM volume 2, so
// that processors without the unit can test what uses it. A configuration or product that would fault traps there.
#pragma once

namespace octuor::OCTUOR_ISA {

constexpr int MATRIX_ROWS = 16, MATRIX_LINE = 64;

// What ldtilecfg reads: here all 8 tiles in full.
struct alignas(64) MatrixShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(MatrixShapes) == 64);

#ifndef OCTUOR_EMULATE_AMX

static inline void matrix_configure(const MatrixShapes& shapes) {
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}
static inline void matrix_release() { __asm__ volatile("tilerelease"); }

template <int TILE>
static inline void matrix_zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(TILE));
}
// Line i is the 64 bytes at p + i * stride.
template <int TILE>
static inline void matrix_load(const void* p, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
static inline void matrix_store(void* p, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(TILE) : "memory");
}
// SUMS[m][n] += over k, j: A[m][4k + j] (int8) * B[k][4n + j] (uint8)
template <int SUMS, int A, int B>
static inline void matrix_dot() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(A), "i"(B));
}

#else

struct EmulatedTiles {
    MatrixShapes shapes;
    bool configured;
    uint8_t tiles[8][16][64];
};
static thread_local EmulatedTiles emulated;

static inline void fault_unless(bool fine) {
    if (!fine) __builtin_trap();
}

static inline void matrix_configure(const MatrixShapes& shapes) {
    fault_unless(shapes.palette == 1 && shapes.start_row == 0);
    for (int i = 0; i < 14; i++) fault_unless(shapes.reserved[i] == 0);
    for (int i = 0; i < 16; i++) {
        fault_unless(shapes.line_bytes[i] <= 64 && shapes.rows[i] <= 16);
        fault_unless((shapes.line_bytes[i] == 0) == (shapes.rows[i] == 0));
        fault_unless(i < 8 || shapes.rows[i] == 0);
    }
    memset(&emulated, 0, sizeof emulated);
    emulated.shapes = shapes;
    emulated.configured = true;
}
static inline void matrix_release() { memset(&emulated, 0, sizeof emulated); }

template <int TILE>
static inline void matrix_zero() {
    fault_unless(emulated.configured && emulated.shapes.rows[TILE] != 0);
    memset(emulated.tiles[TILE], 0, sizeof emulated.tiles[TILE]);
}
template <int TILE>
static inline void matrix_load(const void* p, int64_t stride) {
    matrix_zero<TILE>();  // what the shape leaves out
    for (int m = 0; m < emulated.shapes.rows[TILE]; m++)
        memcpy(emulated.tiles[TILE][m], static_cast<const uint8_t*>(p) + m * stride, emulated.shapes.line_bytes[TILE]);
}
template <int TILE>
static inline void matrix_store(void* p, int64_t stride) {
    fault_unless(emulated.configured && emulated.shapes.rows[TILE] != 0);
    for (int m = 0; m < emulated.shapes.rows[TILE]; m++)
        memcpy(static_cast<uint8_t*>(p) + m * stride, emulated.tiles[TILE][m], emulated.shapes.line_bytes[TILE]);
}
template <int SUMS, int A, int B>
static inline void matrix_dot() {
    const MatrixShapes& shapes = emulated.shapes;
    fault_unless(emulated.configured && SUMS != A && SUMS != B && A != B);
    fault_unless(shapes.rows[SUMS] == shapes.rows[A] && shapes.line_bytes[SUMS] == shapes.line_bytes[B]);
    fault_unless(shapes.line_bytes[A] == 4 * shapes.rows[B] && shapes.line_bytes[SUMS] % 4 == 0);
    uint8_t sums[16][64] = {};  // lines beyond the shape come out as zeros
    for (int m = 0; m < shapes.rows[SUMS]; m++)
        for (int n = 0; n < shapes.line_bytes[SUMS] / 4; n++) {
            int32_t sum;
            memcpy(&sum, emulated.tiles[SUMS][m] + 4 * n, 4);
            for (int k = 0; k < shapes.rows[B]; k++)
                for (int j = 0; j < 4; j++)
                    sum += int8_t(emulated.tiles[A][m][4 * k + j]) * emulated.tiles[B][k][4 * n + j];
            memcpy(sums[m] + 4 * n, &sum, 4);
        }
    memcpy(emulated.tiles[SUMS], sums, sizeof sums);
}

#endif

// While one lives, this thread has zeroed tiles, if it wants them.
struct MatrixUnit {
    const bool wanted;
    explicit MatrixUnit(bool wanted) : wanted(wanted) {
        if (wanted) matrix_configure(MatrixShapes());
    }
    ~MatrixUnit() {
        if (wanted) matrix_release();
    }
    MatrixUnit(const MatrixUnit&) = delete;
    MatrixUnit& operator=(const MatrixUnit&) = delete;
};

}  // namespace octuor::OCTUOR_ISA
