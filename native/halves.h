// Numbers of 16 bits, as they are stored. Each vec_*.h has what widens and rounds them.
#pragma once

#include <cstdint>

namespace octuor::OCTUOR_ISA {

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

}  // namespace octuor::OCTUOR_ISA
