// Where a program's time goes: with DDPM_DEBUG=time every step is timed, and the sums are printed to stderr when the
// program is released. A step's time is that until it is done, also on a device that works asynchronously.
#pragma once
#include <chrono>
#include <map>
#include <string>

#include "native/graph/compile.h"

namespace ddpm {

class StepTimes {
 public:
  StepTimes() = default;
  ~StepTimes();  // prints, if there was a run
  StepTimes(const StepTimes&) = delete;
  StepTimes& operator=(const StepTimes&) = delete;
  void add(const Step& step, std::chrono::steady_clock::duration time);
  void endRun() { ++runs_; }

 private:
  struct Sum {
    int64_t calls = 0;
    double seconds = 0;
  };
  int64_t runs_ = 0;
  std::map<std::string, Sum> sums_;  // by op, algorithm and shapes
};

}  // namespace ddpm
