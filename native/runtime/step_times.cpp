#include "native/runtime/step_times.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace ddpm {

void StepTimes::add(const Step& step, std::chrono::steady_clock::duration time) {
  Sum& sum = sums_[shapesOf(step)];
  ++sum.calls;
  sum.seconds += std::chrono::duration<double>(time).count();
}

StepTimes::~StepTimes() {
  if (runs_ == 0) return;
  std::vector<std::pair<std::string, Sum>> sorted(sums_.begin(), sums_.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const auto& [name, sum] : sorted) total += sum.seconds;
  std::fprintf(stderr, "%9.3f ms a run, of %lld runs\n", 1e3 * total / double(runs_), static_cast<long long>(runs_));
  for (const auto& [name, sum] : sorted) {
    std::fprintf(stderr, "%9.3f ms %5.1f %% %4.1f x %s\n", 1e3 * sum.seconds / double(runs_), 100 * sum.seconds / total,
                 double(sum.calls) / double(runs_), name.c_str());
  }
}

}  // namespace ddpm
