#include "native/runtime/device.h"

#include <cstdlib>
#include <new>

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

Failure closedFailure() { return {"closed", "the device was closed"}; }

}  // namespace

Failure toFailure(const Error& error) {
  const char* code = "internal";
  switch (error.code) {
    case ErrorCode::invalidArgument:
      code = "invalid-argument";
      break;
    case ErrorCode::outOfMemory:
      code = "out-of-memory";
      break;
    case ErrorCode::deviceUnavailable:
      code = "device-unavailable";
      break;
    case ErrorCode::unsupported:
      code = "unsupported";
      break;
    case ErrorCode::none:
    case ErrorCode::internal:
      break;
  }
  return {code, error.message[0] ? error.message : "the backend failed and did not say why"};
}

std::shared_ptr<Device> Device::open(const std::string& name, int32_t index, int32_t threads) {
  const Backend& backend = loadBackend(name);
  Error error;
  const int32_t count = backend.deviceCount(&error);
  if (index < 0 || index >= count) {
    const std::string why =
        error.message[0] ? error.message : (count == 1 ? "there is only " : "there are only ") + std::to_string(count);
    throw Failure("device-unavailable", "no device " + name + ":" + std::to_string(index) + ": " + why);
  }
  DeviceHandle* handle = backend.open({index, threads}, &error);
  if (!handle) throw toFailure(error);
  return std::shared_ptr<Device>(new Device(backend, handle, index));
}

Device::Device(const Backend& backend, DeviceHandle* handle, int32_t index)
    : backend_(backend), handle_(handle), index_(index), debug_(debugFromEnvironment()), thread_([this] { loop(); }) {}

std::string Device::libraries() const {
  checkOpen();
  char text[2048] = "";
  if (backend_.libraries) backend_.libraries(handle_, text, sizeof text);
  return text;
}

DeviceInfo Device::info() const {
  checkOpen();
  DeviceInfo info = {};
  backend_.info(handle_, &info);
  return info;
}

void Device::checkOpen() const {
  if (closed_.load(std::memory_order_relaxed)) throw closedFailure();
}

// ---------------------------------------------------------------------------------------------------------------------
// The thread

void Device::submit(Work work, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!dead_) {
      queue_.push_back({std::move(work), std::move(done)});
      wake_.notify_one();
      return;
    }
  }
  const Failure failure = closedFailure();
  if (done) done(&failure);
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
  const std::lock_guard lock(mutex_);
  for (auto& [memory, bytes] : allocations_) backend_.release(handle_, memory);
  allocations_.clear();
  bytes_ = 0;
  backend_.close(handle_);
}

void Device::execute(Job& job) {
  std::optional<Failure> failure;
  if (closed_) {
    failure = closedFailure();
  } else if (job.done && deferred_) {
    failure = std::move(deferred_);
    deferred_.reset();
  } else {
    try {
      job.work();
    } catch (const Failure& f) {
      failure = f;
    } catch (const std::bad_alloc&) {
      failure = Failure("out-of-memory", "out of host memory");
    } catch (const std::exception& e) {
      failure = Failure("internal", e.what());
    }
  }
  job.work = nullptr;  // what it held last is released before anybody hears of its end
  if (job.done) {
    job.done(failure ? &*failure : nullptr);
  } else if (failure && !deferred_) {
    deferred_ = std::move(failure);
  }
}

void Device::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

void* Device::allocate(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  checkOpen();
  Error error;
  void* memory = backend_.allocate(handle_, bytes, &error);
  if (!memory) throw toFailure(error);
  allocations_[memory] = bytes;
  bytes_ += bytes;
  return memory;
}

void Device::release(void* memory) {
  if (memory) submit([this, memory] { free(memory); });
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
  } catch (const Failure&) {
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
