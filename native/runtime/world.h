// The processes that were started together (by mpirun, srun, torchrun), as one of them sees it: ranks, which call the
// same operations in the same order. Numbers move through memory of the host (host_world.h) or from device to device
// (device_world.h).
#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "native/runtime/device.h"

namespace ddpm {

class World {
 public:
  // The world of this process; null where it has joined none. Any thread.
  static std::shared_ptr<World> joined();
  virtual ~World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  virtual int32_t rank() const = 0;
  virtual int32_t size() const = 0;
  virtual std::string library() const = 0;

  // Work for the thread on which the operations below may be called, in order. Work that fails ends the world: what
  // comes after fails, too, since the ranks are no longer at the same place.
  virtual void submit(Device::Work work, Device::Done done) = 0;
  // The same, waited for. Throws what it threw. Not on that thread.
  void call(const Device::Work& work);

  // On memory of the host: each returns when its operation is done here. Throw rank-failed where that takes longer than
  // the time that is allowed, or the library reports an error.
  virtual void barrier() = 0;
  virtual void broadcast(void* data, size_t bytes, int32_t root) = 0;
  // parts[r] of `data` of rank r goes to the same place of all.
  virtual void gather(void* data, const Part* parts) = 0;

  // How long an operation may take, in seconds: a rank that is gone is not always noticed otherwise.
  virtual void setTimeout(double seconds) = 0;

  // This process can't go on with the others: what is under way here fails, and what comes after.
  virtual void abandon() = 0;

  // Ends it: when what was submitted is done and, where the library waits for that, all others leave, too; or, where
  // something has failed or without `inOrder`, at once, which the launcher then takes for the end of all.
  virtual void leave(bool inOrder = true) = 0;

  // Of what this rank has sent to others since it joined.
  uint64_t bytesSent() const { return bytesSent_; }
  void countSent(uint64_t bytes) { bytesSent_ += bytes; }

 protected:
  World() = default;
  // A process is in the world that it joined last.
  static void setJoined(std::shared_ptr<World> world);

 private:
  std::atomic<uint64_t> bytesSent_{0};
};

}  // namespace ddpm
