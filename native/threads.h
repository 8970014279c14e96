// The threads that share the work of a call, and the memory that stays between calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels.h"

namespace octuor {

// A pool of threads that wait between calls: for some tens of microseconds spinning, as the next part of a
// forward pass comes soon, then asleep. One call uses it at a time; hold `mutex` around the call.
class Pool {
 public:
    // n_threads >= 1, the caller included. cpus: empty, or a CPU for each thread: thread i is kept on cpus[i], but
    // for thread 0, which is the caller's and stays where the system puts it (beside busy ones that is cpus[0]).
    // Throws std::system_error if the system does not start as many.
    Pool(int n_threads, const std::vector<int>& cpus);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int n_threads() const { return team_.n_threads; }
    Team* team() { return &team_; }
    // A CPU of those asked for on which no thread could be kept; -1: each is on its own.
    int refused_cpu() const { return refused_cpu_; }
    std::mutex mutex;

 private:
    void run(int64_t n, void (*task)(void*, int64_t, int), void* context);
    void* scratch(int slot, size_t n);
    void work(int thread);
    void take_tasks(int thread);
    void stop();

    // A job is open while tasks may be left; a thread joins an open job, so one that wakes late holds up nobody.
    // state: generation << 16 | open << 15 | threads inside
    static constexpr uint32_t OPEN = 1u << 15, INSIDE = OPEN - 1;
    std::atomic<uint32_t> state_{0};
    std::atomic<uint32_t> generation_{0};  // what idle threads wait on
    std::atomic<int64_t> next_{0};
    std::atomic<bool> stop_{false};
    int64_t n_ = 0;
    void (*task_)(void*, int64_t, int) = nullptr;
    void* context_ = nullptr;

    struct Memory {
        void* at = nullptr;
        size_t size = 0;
    };
    static constexpr int SLOTS = 8;
    Memory memory_[SLOTS];
    Team team_;
    int refused_cpu_ = -1;
    std::vector<std::thread> threads_;
};

}  // namespace octuor
