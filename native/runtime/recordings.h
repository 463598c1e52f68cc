// What a program has recorded: on a GPU a CUDA graph, so that a step of hundreds of kernels is one launch.
#pragma once
#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "native/runtime/device.h"

namespace ddpm {

class Recordings {
 public:
  // Every address that the work depends on, and what else distinguishes it.
  using Key = std::vector<const void*>;

  explicit Recordings(std::shared_ptr<Device> device);
  ~Recordings();  // any thread
  Recordings(const Recordings&) = delete;
  Recordings& operator=(const Recordings&) = delete;

  // On the device's thread. The first work with this key is issued as it is (kernels are loaded when they are first
  // launched, which cannot be recorded, and what runs once is not worth it), the second is recorded, and from then on
  // the recording is replayed. Work that cannot be recorded although it can be issued is issued from then on, whatever
  // its key, and the device has a warning. Throws what `issue` throws, and what the backend reports.
  void run(const Key& key, const std::function<void()>& issue);

  // How often work was issued op by op, recorded, and launched as a recording. Any thread.
  struct Counts {
    uint32_t direct, recorded, replayed;
  };
  Counts counts() const { return {direct_, recorded_, replayed_}; }

 private:
  static constexpr size_t kCapacity = 8;

  struct Entry {
    Key key;
    Recording* recording = nullptr;
  };

  Recording* record(const std::function<void()>& issue);  // null with the reason in whyNot_ where it can't be
  void forgetAll();

  const std::shared_ptr<Device> device_;
  std::list<Entry> entries_;  // the one used last first
  bool refused_ = false;      // nothing is recorded any more
  std::string whyNot_;
  std::atomic<uint32_t> direct_{0}, recorded_{0}, replayed_{0};
};

}  // namespace ddpm
