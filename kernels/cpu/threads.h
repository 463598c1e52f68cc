// The thread pool of a CPU device.
#pragma once
#include <cstdint>

namespace ddpm::cpu {

// Runs the tasks of one loop at a time on `threads` threads, of which the caller is one. Every thread starts with a
// contiguous share of the tasks (so that the next loop finds its data in the same core's cache) and then takes from the
// others' shares. Which thread runs a task is therefore not fixed: a task must write only what is its own, and then
// results depend neither on the number of threads nor on timing.
//
// Between two loops idle threads spin for some 200 us and then sleep. One thread at a time may call; loops do not nest;
// a body does not throw.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // >= 1; throws std::system_error where a thread cannot be started
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // body(task, thread) for every task in [0, tasks); thread in [0, threads()) names a slot of per-thread memory.
  template <class Body>
  void parallelFor(int64_t tasks, const Body& body) {
    if (tasks <= 0) return;
    if (tasks == 1 || threads_ == 1) {
      for (int64_t i = 0; i < tasks; ++i) body(i, 0);
      return;
    }
    run(
        tasks, [](const void* b, int64_t task, int thread) { (*static_cast<const Body*>(b))(task, thread); }, &body);
  }

  // body(begin, end) over [0, count) cut into pieces of `grain`.
  template <class Body>
  void parallelRange(int64_t count, int64_t grain, const Body& body) {
    parallelFor((count + grain - 1) / grain, [&](int64_t task, int) {
      const int64_t begin = task * grain;
      body(begin, begin + grain < count ? begin + grain : count);
    });
  }

 private:
  using Call = void (*)(const void* body, int64_t task, int thread);
  void run(int64_t tasks, Call call, const void* body);

  struct State;
  int threads_;
  State* state_;
};

}  // namespace ddpm::cpu
