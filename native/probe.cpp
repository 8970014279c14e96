#include "probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace octuor {

namespace {

constexpr size_t CHUNK = 1 << 20, LINE = 64, AHEAD = 64 * LINE;
constexpr size_t HUGE_PAGE = size_t(2) << 20;
constexpr int PASSES = 7;
// A peak's loop runs in tasks of so many seconds, so that a thread that is held up leaves its share to the others.
constexpr double TASK_S = 50e-6;
constexpr int64_t TASKS_A_THREAD = 256, FIRST_ROUNDS = 2000;

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

// Memory on huge pages where the machine allows: with small ones, page tables are part of what is read.
std::unique_ptr<uint8_t[], decltype(&std::free)> huge(size_t n_bytes) {
    const size_t size = (n_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    auto* memory = static_cast<uint8_t*>(std::aligned_alloc(HUGE_PAGE, size));
    if (!memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    return {memory, &std::free};
}

struct Rounds {
    const Peak* peak;
    int64_t n;
};

void run_rounds(void* context, int64_t, int) {
    const auto& rounds = *static_cast<Rounds*>(context);
    rounds.peak->run(rounds.n);
}

template <class F>
double seconds(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Units of work a second, in 1e9.
template <class F>
double median_rate(double work, F f) {
    double rates[PASSES];
    for (double& rate : rates) rate = work / seconds(f) / 1e9;
    std::sort(rates, rates + PASSES);
    return rates[PASSES / 2];
}

}  // namespace

double read_bandwidth(Team* team, size_t n_bytes) {
    const size_t chunks = std::max<size_t>(n_bytes / CHUNK, 1);
    const auto memory = huge(chunks * CHUNK + AHEAD);
    Reads reads = {memory.get(), std::vector<uint64_t>(chunks)};
    team->run(team, int64_t(chunks), fill, &reads);
    return median_rate(double(chunks * CHUNK), [&] { team->run(team, int64_t(chunks), read, &reads); });
}

double peak_rate(Team* team, const Peak& peak) {
    peak.run(FIRST_ROUNDS);  // the CPU's clock and its wide units may need a moment
    const double first = seconds([&] { peak.run(FIRST_ROUNDS); });
    Rounds rounds = {&peak, std::max(int64_t(FIRST_ROUNDS * TASK_S / first), int64_t(1))};
    const int64_t n = TASKS_A_THREAD * team->n_threads;
    return median_rate(double(n * rounds.n * peak.ops_per_round), [&] { team->run(team, n, run_rounds, &rounds); });
}

}  // namespace octuor
