#include "kernels/cpu/peak.h"

#include <chrono>

#include "kernels/cpu/threads.h"

namespace ddpm::cpu {

double measureFmaPeak(int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kRounds = 200'000;  // about a millisecond
  ThreadPool pool(threads > 0 ? threads : coreCount());
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto begin = Clock::now();
  double best = 0;
  do {
    const auto start = Clock::now();
    pool.parallelFor(8 * pool.threads(), [](int64_t, int) { fmaLoop(kRounds); });
    const double rate = 8 * pool.threads() * fmaLoop(0) * kRounds / since(start);
    best = rate > best ? rate : best;
  } while (since(begin) < seconds);
  return best * 1e-9;
}

}  // namespace ddpm::cpu
