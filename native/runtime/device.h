// A device: a backend's device, its memory, and a thread on which everything is executed in the order it was asked for.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kernels/backend.h"
#include "native/graph/backend_error.h"
#include "native/runtime/planner.h"

namespace ddpm {

// How work ended; null: it worked. Shared, so that handing it on needs no memory.
using Outcome = std::shared_ptr<const Failure>;

// Words of DDPM_DEBUG, separated by commas, that concern programs; read when a device is opened.
struct Debug {
  bool synchronizes = false;  // 'sync', 'time': waits for every op, so that an error of a kernel names its op
  bool records = true;        // not with these or 'direct': every op is issued in every run
  bool times = false;         // 'time': prints where a program's time went when it is released
};

class Device {
 public:
  using Work = std::function<void()>;         // runs on the device's thread; may throw
  using Piece = std::function<bool()>;        // the same, a part of longer work; true: there is more
  using Done = std::function<void(Outcome)>;  // the same, but throws nothing

  // Throws device-unavailable. `threads` 0: the backend's default.
  static std::shared_ptr<Device> open(const std::string& backend, int32_t index, int32_t threads);
  ~Device() { close(); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Backend& backend() const { return backend_; }
  DeviceHandle* handle() const { return handle_; }
  int32_t index() const { return index_; }
  const Debug& debug() const { return debug_; }
  DeviceInfo info() const;
  // Of others, which the backend uses, or why it does not; empty where it knows none. Opens them.
  std::string libraries() const;
  // What went another way than it should have, although results are right; each once, the first of them. Any thread.
  void warn(const std::string& warning);
  std::vector<std::string> warnings() const;

  // Appends a job. Work without `done` that fails makes the next job with one fail. After close() work is dropped and
  // done is called with 'closed'. Throws std::bad_alloc.
  void submit(Work work, Done done = {});
  // The same with work in pieces, between which what else was asked for has its turn.
  void submitPieces(Piece piece, Done done);

  // The same beside the order of the device, on a thread of its own; for what takes long. What is on its way when the
  // device is closed is waited for: it looks at closing().
  void submitBeside(Work work, Done done);
  const std::atomic<bool>& closing() const { return closed_; }

  // Memory, not initialised. Throws out-of-memory, or closed. Any thread.
  void* allocate(uint64_t bytes);
  // Frees it after the jobs that were submitted before; without memory to ask for that, when the device is closed. Any
  // thread.
  void release(void* memory) noexcept;
  uint64_t memoryInUse() const;  // the workspace included
  uint64_t workspaceBytes() const;

  // Memory for arenas and scratch, shared by all programs: they run one at a time and leave nothing behind in it. It is
  // as large as the largest reservation.
  void reserveWorkspace(uint64_t bytes);  // throws out-of-memory
  void unreserveWorkspace(uint64_t bytes);
  char* workspace() const { return static_cast<char*>(workspace_); }  // on the device's thread only

  // Throws closed when the device is being closed; programs call it between ops.
  void checkOpen() const;
  // Stops the job that runs (between two ops), rejects those that wait, frees all memory and ends the thread. Any
  // thread; on the device's own it only begins.
  void close();
  bool isClosed() const { return closed_.load(std::memory_order_relaxed); }

 private:
  struct Job {
    Piece work;
    Done done;
  };

  Device(const Backend& backend, DeviceHandle* handle, int32_t index);
  void loop();
  void execute(Job& job);
  Outcome attempt(const Work& work) const noexcept;
  bool requeue(Job& job) noexcept;
  void free(void* memory);
  void resizeWorkspace(uint64_t bytes);

  const Backend& backend_;
  DeviceHandle* const handle_;
  const int32_t index_;
  const Debug debug_;

  mutable std::mutex mutex_;  // of the queue and the list of allocations
  std::condition_variable wake_;
  std::deque<Job> queue_;
  std::unordered_map<void*, uint64_t> allocations_;
  uint64_t bytes_ = 0;
  std::atomic<bool> closed_{false};
  bool dead_ = false;  // the backend's device is closed

  static constexpr size_t kWarnings = 32;
  mutable std::mutex warningsMutex_;
  std::vector<std::string> warnings_;

  Planner planner_;

  mutable std::mutex workspaceMutex_;  // of the next two; taken before mutex_
  std::multiset<uint64_t> reservations_;
  uint64_t workspaceBytes_ = 0;
  void* workspace_ = nullptr;  // used by the device's thread only
  Outcome deferred_;           // the same; the failure of a job that nobody waited for

  std::mutex closing_;
  std::thread thread_;
};

}  // namespace ddpm
