#include "native/runtime/planner.h"

namespace ddpm {

void Planner::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopped_) {
      if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
      jobs_.push_back(std::move(job));
      wake_.notify_one();
      return;
    }
  }
  job(true);
}

void Planner::loop() {
  for (;;) {
    Job job;
    bool stopped;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      stopped = stopped_;
    }
    job(stopped);
  }
}

void Planner::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    wake_.notify_all();
  }
  const std::lock_guard lock(joining_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace ddpm
