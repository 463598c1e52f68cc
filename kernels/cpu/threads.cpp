#include "kernels/cpu/threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ddpm::cpu {
namespace {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Longer than the steps that one thread does alone, since waking a thread takes tens of microseconds.
constexpr auto kSpin = std::chrono::microseconds(200);

// Spins until done() or the time is over; says whether it is done.
template <class Done>
bool spin(const Done& done) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause();
    }
    if (std::chrono::steady_clock::now() - start > kSpin) return done();
  }
}

}  // namespace

struct ThreadPool::State {
  // A thread's share of the tasks; others take from it too.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  explicit State(int n) : shares(new Share[n]) {}

  std::unique_ptr<Share[]> shares;
  Call call = nullptr;
  const void* body = nullptr;

  alignas(64) std::atomic<uint32_t> loop{0};  // counts the loops; what idle threads watch
  std::atomic<bool> stop{false};
  // A worker first counts itself in, then looks whether the loop is open; the caller first closes the loop, then waits
  // until nobody is in. So the caller need not wait for a worker that wakes up late, and no worker sees half a loop.
  alignas(64) std::atomic<bool> open{false};
  alignas(64) std::atomic<int> inside{0};

  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> asleep{0};
  std::vector<std::thread> workers;

  void work(int thread, int threads) {
    for (int i = 0; i < threads; ++i) {
      Share& share = shares[(thread + i) % threads];
      for (;;) {
        const int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        call(body, task, thread);
      }
    }
  }

  void worker(int thread, int threads) {
    uint32_t seen = 0;
    for (;;) {
      const auto changed = [&] { return loop.load() != seen || stop.load(); };
      if (!spin(changed)) {
        std::unique_lock<std::mutex> lock(mutex);
        asleep.fetch_add(1);
        wake.wait(lock, changed);
        asleep.fetch_sub(1);
      }
      if (stop.load()) return;
      seen = loop.load();
      inside.fetch_add(1);
      if (open.load()) work(thread, threads);
      inside.fetch_sub(1);
    }
  }

  void shutDown() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop.store(true);
    }
    wake.notify_all();
    for (std::thread& t : workers) t.join();
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), state_(new State(threads)) {
  try {
    for (int i = 1; i < threads; ++i) state_->workers.emplace_back(&State::worker, state_, i, threads);
  } catch (...) {
    state_->shutDown();
    delete state_;
    throw;
  }
}

ThreadPool::~ThreadPool() {
  state_->shutDown();
  delete state_;
}

void ThreadPool::run(int64_t tasks, Call call, const void* body) {
  State& s = *state_;
  s.call = call;
  s.body = body;
  for (int i = 0; i < threads_; ++i) {
    s.shares[i].next.store(tasks * i / threads_, std::memory_order_relaxed);
    s.shares[i].end = tasks * (i + 1) / threads_;
  }
  s.open.store(true);
  s.loop.fetch_add(1);
  if (s.asleep.load() > 0) {
    {
      std::lock_guard<std::mutex> lock(s.mutex);
    }  // a worker that is about to sleep has looked at `loop` or will be woken
    s.wake.notify_all();
  }
  s.work(0, threads_);
  s.open.store(false);
  // A worker still has a task. Where there are more threads than cores, let it have this one.
  const auto done = [&] { return s.inside.load() == 0; };
  while (!spin(done)) std::this_thread::yield();
}

}  // namespace ddpm::cpu
