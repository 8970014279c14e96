#include "threads.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#endif

#include <chrono>
#include <cstdlib>
#include <new>

namespace octuor {

namespace {

// Longer than what lies between two kernels of a forward pass, short enough to leave the CPU to others that want it:
// docs/machine.md has what other lengths cost.
constexpr auto SPIN = std::chrono::microseconds(60);
constexpr size_t HUGE_PAGE = 2 << 20;

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

// Keeps a thread on one CPU; false where the system refuses or has no such thing.
bool pin(std::thread& thread, int cpu) {
#if defined(__linux__)
    if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(cpu, &mask);
    return pthread_setaffinity_np(thread.native_handle(), sizeof mask, &mask) == 0;
#else
    (void)thread, (void)cpu;
    return false;
#endif
}

}  // namespace

Pool::Pool(int n_threads, const std::vector<int>& cpus)
    : team_{this, n_threads,
            [](Team* team, int64_t n, void (*task)(void*, int64_t, int), void* context) {
                static_cast<Pool*>(team->self)->run(n, task, context);
            },
            [](Team* team, int slot, size_t n) { return static_cast<Pool*>(team->self)->scratch(slot, n); }} {
    try {
        for (int i = 1; i < n_threads; i++) {
            threads_.emplace_back([this, i] { work(i); });
            if (size_t(i) < cpus.size() && !pin(threads_.back(), cpus[size_t(i)])) refused_cpu_ = cpus[size_t(i)];
        }
    } catch (...) {  // the system starts no more of them
        stop();
        throw;
    }
}

Pool::~Pool() {
    stop();
    for (Memory& memory : memory_) std::free(memory.at);
}

void Pool::stop() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
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
        const size_t wanted = n + n / 4, page = wanted < HUGE_PAGE ? 4096 : HUGE_PAGE;
        const size_t size = (wanted + page - 1) / page * page;
        memory.at = std::aligned_alloc(page, size);
        if (!memory.at) throw std::bad_alloc();
#if defined(__linux__)
        if (page == HUGE_PAGE) madvise(memory.at, size, MADV_HUGEPAGE);  // prompts gain 2 %; refused where there are none
#endif
        memory.size = size;
    }
    return memory.at;
}

}  // namespace octuor
