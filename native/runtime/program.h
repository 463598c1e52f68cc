// A compiled graph with memory: what runs.
#pragma once
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "native/graph/compile.h"
#include "native/runtime/bank_sum.h"
#include "native/runtime/buffer.h"
#include "native/runtime/device_world.h"
#include "native/runtime/recordings.h"
#include "native/runtime/step_times.h"

namespace ddpm {

class Program {
 public:
  using Bindings = std::map<std::string, std::shared_ptr<Buffer>>;

  Program(std::shared_ptr<Device> device, Compiled compiled);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const std::shared_ptr<Device> device;
  const Compiled& compiled() const { return compiled_; }

  // Takes the memory that it needs, once, before it runs. Throws out-of-memory. From one thread at a time.
  void reserve();

  // Throws invalid-argument where it has no memory, and where a buffer is missing, unknown, too small or another
  // device's.
  void checkBindings(const Bindings& bindings) const;

  // On the device's thread, after checkBindings. Throws what the backend reports, or closed. Without `waits` it may
  // still be under way on the device when this returns, and what goes wrong there is reported by who waits next.
  void run(const Bindings& bindings, bool waits = true);

  // Nobody will ask it to run again: runs that are queued (run_queue.h) are dropped. Any thread.
  void retire() { retired_ = true; }
  bool isRetired() const { return retired_; }

  // How runs were issued. Any thread.
  Recordings::Counts launches() const { return recordings_.counts(); }

 private:
  struct Patch {
    void** pointer;
    Address address;
  };

  void findPatches();
  void bind(const Bindings& bindings);
  // Steps [begin, end). `isDone` is told how many of all are.
  using StepsDone = std::function<void(int64_t steps)>;
  void execute(std::vector<Step>& steps, size_t begin, size_t end, const StepsDone& isDone = {});
  // All steps of a program of which the runtime computes some with other ranks; `before` comes before the first.
  void executeWithRanks(const Bindings& bindings, const Recordings::Key& key, const std::function<void()>& before);
  // The same where devices reach one another: one recording.
  void executeWithDevices(DeviceWorld& world, const Bindings& bindings, const Recordings::Key& key,
                          const std::function<void()>& before);

  const Compiled compiled_;
  Steps steps_;  // a copy whose pointers are those of the present run
  std::vector<Patch> patches_;
  std::vector<bool> written_;  // of each storage: whether a step writes it
  std::vector<char*> bases_;   // of each storage: where it is in this run
  bool reserved_ = false;
  char* packed_ = nullptr;
  // What a bank's part of packed_ was made of.
  struct Packed {
    uint64_t id = 0, version = 0;
  };
  std::array<Packed, 2> packedFrom_;  // as Steps::prologues
  Recordings recordings_;
  uint64_t scratchOffset_ = 0, sumOffset_ = 0, workspaceBytes_ = 0;
  StepTimes times_;
  std::atomic<bool> retired_{false};
};

}  // namespace ddpm
