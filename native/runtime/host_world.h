// A world by a library that works on memory of the host (native/collectives): a thread that moves numbers to and from
// the others in the order in which it is asked to.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "native/collectives/collectives.h"
#include "native/runtime/world.h"

namespace ddpm {

class HostWorld : public World {
 public:
  // Joins the others by a library ('mpi'), once a process: later calls give the same world. Throws device-unavailable
  // where the library is not there or fails, and rank-failed where not all join within `seconds`, then and later.
  static std::shared_ptr<HostWorld> join(const std::string& library, double seconds);
  ~HostWorld() override;

  int32_t rank() const override { return info_.rank; }
  int32_t size() const override { return info_.size; }
  std::string library() const override { return info_.library; }

  void submit(Device::Work work, Device::Done done) override;
  void barrier() override;
  void broadcast(void* data, size_t bytes, int32_t root) override;
  void gather(void* data, const Part* parts) override;
  // sent[r] of `from` goes to rank r, and what comes from it to received[r] of `to`.
  void exchange(const void* from, const Part* sent, void* to, const Part* received);

  void setTimeout(double seconds) override { timeout_ = seconds; }
  void abandon() override { abandoned_ = true; }
  void leave(bool inOrder = true) override;

 private:
  struct Job {
    Device::Work work;
    Device::Done done;
  };

  HostWorld(const Collectives& table, double seconds);
  void loop();
  void wait(Operation* operation, const char* what, const Error& error);

  const Collectives& table_;
  WorldHandle* handle_ = nullptr;
  WorldInfo info_ = {};
  std::atomic<double> timeout_{600};
  std::atomic<bool> abandoned_{false};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  Outcome failed_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace ddpm
