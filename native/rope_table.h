// Cosines and sines of rotary positions, kept while the positions stay the same: all layers of a forward pass ask
// for the same ones.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace octuor {

struct RopeTable {
    double theta = 0;
    int64_t half = 0;
    std::vector<int32_t> positions;
    std::vector<float> cos, sin;  // [T, C/2]

    // Angles are taken in double: positions go to 65535, where a float angle is off by 0.004.
    void prepare(const int32_t* new_positions, int64_t n_tokens, int64_t head_dim, double new_theta) {
        if (theta == new_theta && half == head_dim / 2 && int64_t(positions.size()) == n_tokens &&
            !std::memcmp(positions.data(), new_positions, size_t(n_tokens) * sizeof(int32_t)))
            return;
        theta = new_theta, half = head_dim / 2;
        positions.assign(new_positions, new_positions + n_tokens);
        cos.resize(size_t(n_tokens * half));
        sin.resize(size_t(n_tokens * half));
        for (int64_t i = 0; i < half; i++) {
            const double frequency = std::pow(theta, -double(i) / double(half));
            for (int64_t t = 0; t < n_tokens; t++) {
                const double angle = double(positions[size_t(t)]) * frequency;
                cos[size_t(t * half + i)] = float(std::cos(angle));
                sin[size_t(t * half + i)] = float(std::sin(angle));
            }
        }
    }
};

}  // namespace octuor
