// Runs of programs, one after the other, that are waited for together: the host asks for the next while the device
// still computes.
#pragma once
#include <atomic>
#include <vector>

#include "native/runtime/program.h"

namespace ddpm {

class RunQueue {
 public:
  struct Run {
    std::shared_ptr<Program> program;
    Program::Bindings bindings;  // checked
  };

  RunQueue(std::shared_ptr<Device> device, std::vector<Run> runs)
      : device_(std::move(device)), runs_(std::move(runs)) {}

  // On the device's thread: asks for the next run. After the last, or what `stop` has left as the last, it waits for
  // the device and returns false. Throws as Program::run does.
  bool next();

  // No further run begins. Any thread.
  void stop() { stopped_ = true; }

 private:
  const std::shared_ptr<Device> device_;
  const std::vector<Run> runs_;
  size_t next_ = 0;
  std::atomic<bool> stopped_{false};
};

}  // namespace ddpm
