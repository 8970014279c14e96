#include "threads.h"

#include <sched.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>

namespace octuor {

namespace {

constexpr auto SPIN = std::chrono::microseconds(60);

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits until the value is no longer `old`, spinning first.
void wait_change(std::atomic<uint32_t>& value, uint32_t old) {
    const auto until = std::chrono::steady_clock::now() + SPIN;
    do {
        for (int i = 0; i < 64; i++) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    value.wait(old, std::memory_order_acquire);
}

double cgroup_cpus() {
    std::ifstream file("/sys/fs/cgroup/cpu.max");  // "max 100000" or "150000 100000": quota and period
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return INFINITY;
    return std::strtod(quota.c_str(), nullptr) / period;
}

}  // namespace

int usable_cpus() {
    int n = int(std::thread::hardware_concurrency());
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) n = CPU_COUNT(&mask);
    const double quota = std::ceil(cgroup_cpus());
    if (quota < n) n = int(quota);
    return n < 1 ? 1 : n;
}

Pool::Pool(int n_threads)
    : team_{this, n_threads,
            [](Team* team, int64_t n, void (*task)(void*, int64_t, int), void* context) {
                static_cast<Pool*>(team->self)->run(n, task, context);
            },
            [](Team* team, int slot, size_t n) { return static_cast<Pool*>(team->self)->scratch(slot, n); }} {
    for (int i = 1; i < n_threads; i++) threads_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (Memory& memory : memory_) std::free(memory.at);
}

void Pool::run(int64_t n, void (*task)(void*, int64_t, int), void* context) {
    if (threads_.empty() || n <= 1) {
        for (int64_t i = 0; i < n; i++) task(context, i, 0);
        return;
    }
    n_ = n, task_ = task, context_ = context;
    next_.store(0, std::memory_order_relaxed);
    const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
    state_.store(generation << 16 | OPEN, std::memory_order_release);
    generation_.store(generation, std::memory_order_release);
    generation_.notify_all();
    take_tasks(0);
    uint32_t state = state_.fetch_and(~OPEN, std::memory_order_acq_rel) & ~OPEN;
    while (state & INSIDE) {
        wait_change(state_, state);
        state = state_.load(std::memory_order_acquire);
    }
}

void Pool::take_tasks(int thread) {
    const int64_t n = n_;
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n;) task_(context_, i, thread);
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        wait_change(generation_, seen);
        seen = generation_.load(std::memory_order_acquire);
        if (stop_) return;
        uint32_t state = state_.load(std::memory_order_acquire);
        bool joined = false;
        while (state & OPEN && !joined)
            joined = state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel);
        if (!joined) continue;
        take_tasks(thread);
        state = state_.fetch_sub(1, std::memory_order_acq_rel) - 1;
        if (!(state & (OPEN | INSIDE))) state_.notify_one();  // the caller waits for the last to leave
    }
}

void* Pool::scratch(int slot, size_t n) {
    Memory& memory = memory_[slot];
    if (memory.size < n) {
        std::free(memory.at);
        memory = {};
        const size_t size = (n + n / 4 + 4095) / 4096 * 4096;
        memory.at = std::aligned_alloc(4096, size);
        if (!memory.at) throw std::bad_alloc();
        memory.size = size;
    }
    return memory.at;
}

}  // namespace octuor
