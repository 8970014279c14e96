#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

namespace octuor {

namespace {

constexpr size_t CHUNK = 1 << 20, LINE = 64, AHEAD = 64 * LINE;
constexpr int PASSES = 7;

struct Reads {
    uint8_t* data;
    std::vector<uint64_t> sums;  // so that the reads are not left out
};

void fill(void* context, int64_t i, int) {
    std::memset(static_cast<Reads*>(context)->data + size_t(i) * CHUNK, 1, CHUNK);
}

void read(void* context, int64_t i, int) {
    auto& reads = *static_cast<Reads*>(context);
    const uint8_t* p = reads.data + size_t(i) * CHUNK;
    uint64_t sums[4] = {};
    for (size_t at = 0; at < CHUNK; at += 4 * LINE)
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch(p + at + j * LINE + AHEAD);
            uint64_t word;
            std::memcpy(&word, p + at + j * LINE, sizeof word);
            sums[j] += word;
        }
    reads.sums[size_t(i)] = sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

double read_bandwidth(Team* team, size_t n_bytes) {
    const size_t chunks = std::max<size_t>(n_bytes / CHUNK, 1);
    const std::unique_ptr<uint8_t[]> memory(new uint8_t[chunks * CHUNK + AHEAD]);
    Reads reads = {memory.get(), std::vector<uint64_t>(chunks)};
    team->run(team, int64_t(chunks), fill, &reads);
    std::vector<double> rates;
    for (int pass = 0; pass < PASSES; pass++) {
        const auto start = std::chrono::steady_clock::now();
        team->run(team, int64_t(chunks), read, &reads);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        rates.push_back(double(chunks * CHUNK) / took.count() / 1e9);
    }
    std::sort(rates.begin(), rates.end());
    return rates[PASSES / 2];
}

}  // namespace octuor
