// A thread beside a device's own, for what takes long and has no place in its order: compiling programs whose
// algorithms are chosen by times. Started when it is first needed.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace ddpm {

class Planner {
 public:
  // Called on the thread with false, or with true where the planner was stopped before. Throws nothing.
  using Job = std::function<void(bool stopped)>;

  Planner() = default;
  ~Planner() { stop(); }
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  // In the order of the calls. Throws std::bad_alloc and std::system_error.
  void submit(Job job);
  // Waits for the job that runs; those that wait, and those that come, are called with true. Any thread but its own.
  void stop();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopped_ = false;
  std::mutex joining_;
  std::thread thread_;
};

}  // namespace ddpm
