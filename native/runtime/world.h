// The processes that were started together (by mpirun, srun), as one of them sees it: a thread that moves numbers to
// and from the others in the order in which it is asked to.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "native/collectives/collectives.h"
#include "native/runtime/device.h"

namespace ddpm {

class World {
 public:
  // Joins the others by a library ('mpi'), once a process: later calls give the same world. Throws device-unavailable
  // where the library is not there or fails, and rank-failed where not all join within `seconds`, then and later.
  static std::shared_ptr<World> join(const std::string& library, double seconds);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int32_t rank() const { return info_.rank; }
  int32_t size() const { return info_.size; }
  std::string library() const { return info_.library; }

  // Work for the world's thread, in order, in which the operations below may be called. Work that fails ends the world:
  // what comes after fails, too, since the ranks are no longer at the same place.
  void submit(Device::Work work, Device::Done done);
  // The same, waited for. Throws what it threw. Not on the world's thread.
  void call(const Device::Work& work);

  // On the world's thread: each returns when its operation is done here. All ranks call the same in the same order.
  // Throw rank-failed where that takes longer than the time that is allowed, or the library reports an error.
  void barrier();
  void broadcast(void* data, size_t bytes, int32_t root);
  void exchange(const void* from, const Part* sent, void* to, const Part* received);
  void gather(void* data, const Part* parts);

  // How long an operation may take, in seconds: a rank that is gone is not always noticed otherwise.
  void setTimeout(double seconds) { timeout_ = seconds; }

  // Of what this rank has sent to others since it joined.
  uint64_t bytesSent() const { return bytesSent_; }

  // This process can't go on with the others: what is under way here fails, and what comes after.
  void abandon() { abandoned_ = true; }

  // The world of this process; null where it has joined none. Any thread.
  static std::shared_ptr<World> joined();

  // Ends the thread: when what was submitted is done and all others leave, too, or, where something has failed or
  // without `inOrder`, at once, which the launcher then takes for the end of all.
  void leave(bool inOrder = true);

 private:
  struct Job {
    Device::Work work;
    Device::Done done;
  };

  World(const Collectives& table, double seconds);
  void loop();
  void wait(Operation* operation, const char* what, const Error& error);
  void countSent(const Part* sent);

  const Collectives& table_;
  WorldHandle* handle_ = nullptr;
  WorldInfo info_ = {};
  std::atomic<double> timeout_{600};
  std::atomic<uint64_t> bytesSent_{0};
  std::atomic<bool> abandoned_{false};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  Outcome failed_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace ddpm
