// A world by what a device has to reach others' devices (Links of kernels/backend.h: NCCL). It has no thread of its
// own: its operations are jobs of the device, in the order of all that the device is asked for.
#pragma once
#include "native/runtime/world.h"

namespace ddpm {

class DeviceWorld : public World {
 public:
  // By which the ranks find one another: made by one, for all.
  static std::string makeId(const std::shared_ptr<Device>& device);
  // Waits for the others, `seconds` at most. Throws device-unavailable, rank-failed.
  static std::shared_ptr<DeviceWorld> join(std::shared_ptr<Device> device, const std::string& id, int32_t rank,
                                           int32_t size, double seconds);
  ~DeviceWorld() override;

  const std::shared_ptr<Device>& device() const { return device_; }

  int32_t rank() const override { return rank_; }
  int32_t size() const override { return size_; }
  std::string library() const override { return library_; }

  void submit(Device::Work work, Device::Done done) override;
  void barrier() override;
  void broadcast(void* data, size_t bytes, int32_t root) override;
  void gather(void* data, const Part* parts) override;

  void setTimeout(double seconds) override;
  void abandon() override;
  void leave(bool inOrder = true) override;

  // On the device's thread: the same on memory of the device. They return when it is asked for, and may be recorded.
  void exchangeThere(const void* from, const Part* sent, void* to, const Part* received);
  void gatherThere(void* data, const Part* parts);
  // Until it is gone, what is asked for goes beside what the device is asked for afterwards; see Links.
  class Aside {
   public:
    explicit Aside(const DeviceWorld& world);
    ~Aside();
    Aside(const Aside&) = delete;
    Aside& operator=(const Aside&) = delete;

   private:
    const DeviceWorld& world_;
  };
  // What the device is asked for afterwards comes when all of that is done.
  void awaitAside() const;
  // Throws where the others are lost, as a recording must not be replayed then.
  void check() const;

 private:
  DeviceWorld(std::shared_ptr<Device> device, int32_t rank, int32_t size);
  char* stage(size_t bytes);

  const std::shared_ptr<Device> device_;
  const Links& links_;
  const int32_t rank_, size_;
  std::string library_;
  std::atomic<bool> ends_{false};
  // On the device's thread.
  Outcome failed_;
  char* staged_ = nullptr;
  size_t stagedBytes_ = 0;
};

}  // namespace ddpm
