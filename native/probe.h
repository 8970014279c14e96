// What the machine can do, to set beside what the kernels reach.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace octuor {

// GB/s (1e9 bytes) of sequential reads of n_bytes of memory by all threads of the team: the median of several passes.
double read_bandwidth(Team* team, size_t n_bytes);

// Operations a second, in 1e9, of a Peak's loop on all threads of the team: the median of several passes.
double peak_rate(Team* team, const Peak& peak);

}  // namespace octuor
