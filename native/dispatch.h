// The list of implementations: the same kernels built for several instruction sets. Tests walk it.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace octuor {

struct Implementation {
    const char* name;
    bool (*supported)();  // whether this machine's CPU and operating system can run it
    const Kernels* kernels;
};

// From the plainest to the fastest.
const std::vector<Implementation>& implementations();

// The processor's name for itself, and those of its features that the kernels could use.
std::string cpu_name();
std::vector<std::string> cpu_features();

}  // namespace octuor
