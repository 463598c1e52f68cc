#include "native/runtime/device.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <system_error>

#include "native/runtime/address_space.h"
#include "native/runtime/at_exit.h"
#include "native/runtime/backends.h"

namespace ddpm {
namespace {

Debug debugFromEnvironment() {
  const char* value = std::getenv("DDPM_DEBUG");
  std::string words = ",";
  words.append(value ? value : "").append(",");
  const auto has = [&](const char* word) {
    return words.find(std::string(",").append(word).append(",")) != std::string::npos;
  };
  const bool synchronizes = has("sync") || has("time");
  return {synchronizes, !synchronizes && !has("direct"), has("time")};
}

// Of address space: a stack, as large as most systems make them.
constexpr uint64_t kThreadBytes = uint64_t(8) << 20;

// Ends that must be told of without asking for memory.
struct Ends {
  const Outcome closed = std::make_shared<Failure>("closed", "the device was closed");
  const Outcome outOfMemory = std::make_shared<Failure>("out-of-memory", "out of host memory");
};
const Ends& ends() {
  static const Ends& all = *new Ends;  // never destroyed: threads may outlive static objects
  return all;
}

}  // namespace

std::shared_ptr<Device> Device::open(const std::string& name, int32_t index, int32_t threads) {
  const Backend& backend = loadBackend(name);
  Error error;
  const int32_t count = backend.deviceCount(&error);
  if (index < 0 || index >= count) {
    const std::string why =
        error.message[0] ? error.message : (count == 1 ? "there is only " : "there are only ") + std::to_string(count);
    throw Failure("device-unavailable", "no device " + name + ":" + std::to_string(index) + ": " + why);
  }
  leaveRoom(uint64_t(std::max(threads, 1)) * kThreadBytes);
  DeviceHandle* handle = backend.open({index, threads}, &error);
  if (!handle) throw toFailure(error);
  std::unique_ptr<Device> device;
  try {
    ends();  // made while there is memory
    device.reset(new Device(backend, handle, index));
  } catch (const std::system_error& e) {
    backend.close(handle);
    throw Failure("device-unavailable", name + ": its thread could not be started: " + e.what());
  } catch (...) {
    backend.close(handle);
    throw;
  }
  std::shared_ptr<Device> shared = std::move(device);
  endAtExit(shared);
  return shared;
}

Device::Device(const Backend& backend, DeviceHandle* handle, int32_t index)
    : backend_(backend), handle_(handle), index_(index), debug_(debugFromEnvironment()), thread_([this] { loop(); }) {}

std::string Device::libraries() const {
  checkOpen();
  char text[2048] = "";
  if (backend_.libraries) backend_.libraries(handle_, text, sizeof text);
  return text;
}

void Device::warn(const std::string& warning) {
  const std::lock_guard lock(warningsMutex_);
  const bool isNew = std::find(warnings_.begin(), warnings_.end(), warning) == warnings_.end();
  if (isNew && warnings_.size() < kWarnings) warnings_.push_back(warning);
}

std::vector<std::string> Device::warnings() const {
  const std::lock_guard lock(warningsMutex_);
  return warnings_;
}

DeviceInfo Device::info() const {
  checkOpen();
  DeviceInfo info = {};
  backend_.info(handle_, &info);
  return info;
}

void Device::checkOpen() const {
  if (closed_.load(std::memory_order_relaxed)) throw Failure(*ends().closed);
}

// ---------------------------------------------------------------------------------------------------------------------
// The thread

void Device::submit(Work work, Done done) {
  submitPieces(
      [work = std::move(work)] {
        work();
        return false;
      },
      std::move(done));
}

void Device::submitPieces(Piece work, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!dead_) {
      queue_.push_back({std::move(work), std::move(done)});
      wake_.notify_one();
      return;
    }
  }
  if (done) done(ends().closed);
}

void Device::submitBeside(Work work, Done done) {
  leaveRoom(kThreadBytes);
  planner_.submit([this, work = std::move(work), done = std::move(done)](bool stopped) mutable {
    Outcome outcome = stopped ? ends().closed : attempt(work);
    work = nullptr;  // as in execute()
    done(std::move(outcome));
  });
}

void Device::loop() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (queue_.empty()) {
        dead_ = true;
        break;
      }
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    execute(job);
  }
  planner_.stop();  // it uses the backend's device
  const std::lock_guard lock(mutex_);
  for (auto& [memory, bytes] : allocations_) backend_.release(handle_, memory);
  allocations_.clear();
  bytes_ = 0;
  backend_.close(handle_);
}

Outcome Device::attempt(const Work& work) const noexcept {
  try {
    try {
      work();
      return nullptr;
    } catch (const Failure& failure) {
      return std::make_shared<Failure>(failure);
    } catch (const std::bad_alloc&) {
      return ends().outOfMemory;
    } catch (const std::exception& e) {
      return std::make_shared<Failure>("internal", e.what());
    }
  } catch (...) {  // no memory to say what it was
    return ends().outOfMemory;
  }
}

// False where there is no memory for that.
bool Device::requeue(Job& job) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    queue_.push_back(std::move(job));
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void Device::execute(Job& job) {
  Outcome outcome;
  bool more = false;
  if (closed_) {
    outcome = ends().closed;
  } else if (job.done && deferred_) {
    outcome = std::move(deferred_);
  } else {
    outcome = attempt([&] { more = job.work(); });
  }
  if (!outcome && more) {
    if (requeue(job)) return;
    outcome = ends().outOfMemory;
  }
  job.work = nullptr;  // what it held last is released before anybody hears of its end
  if (job.done) {
    job.done(std::move(outcome));
  } else if (outcome && !deferred_) {
    deferred_ = std::move(outcome);
  }
}

void Device::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    wake_.notify_all();
  }
  if (thread_.get_id() == std::this_thread::get_id()) return;  // exit() was called by a job
  const std::lock_guard lock(closing_);
  if (thread_.joinable()) thread_.join();
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

void* Device::allocate(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  checkOpen();
  leaveRoom(bytes);
  Error error;
  void* memory = backend_.allocate(handle_, bytes, &error);
  if (!memory) throw toFailure(error);
  try {
    allocations_[memory] = bytes;
  } catch (...) {
    backend_.release(handle_, memory);
    throw;
  }
  bytes_ += bytes;
  return memory;
}

void Device::release(void* memory) noexcept {
  if (!memory) return;
  try {
    submit([this, memory] { free(memory); });
  } catch (const std::bad_alloc&) {
    // It stays in the list of allocations.
  }
}

void Device::free(void* memory) {
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(memory);
  if (found == allocations_.end()) return;
  bytes_ -= found->second;
  allocations_.erase(found);
  backend_.release(handle_, memory);
}

uint64_t Device::memoryInUse() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

uint64_t Device::workspaceBytes() const {
  const std::lock_guard lock(workspaceMutex_);
  return workspaceBytes_;
}

void Device::reserveWorkspace(uint64_t bytes) {
  const std::lock_guard lock(workspaceMutex_);
  if (bytes > workspaceBytes_) resizeWorkspace(bytes);
  reservations_.insert(bytes);
}

void Device::unreserveWorkspace(uint64_t bytes) {
  const std::lock_guard lock(workspaceMutex_);
  reservations_.erase(reservations_.find(bytes));
  const uint64_t largest = reservations_.empty() ? 0 : *reservations_.rbegin();
  if (largest == workspaceBytes_) return;
  try {
    resizeWorkspace(largest);
  } catch (const std::exception&) {
    // No room for a smaller one beside the present one, which goes on serving.
  }
}

void Device::resizeWorkspace(uint64_t bytes) {
  void* memory = bytes ? allocate(bytes) : nullptr;
  submit([this, memory] {
    if (workspace_) free(workspace_);
    workspace_ = memory;
  });
  workspaceBytes_ = bytes;
}

}  // namespace ddpm
