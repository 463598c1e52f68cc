#include "native/runtime/host_world.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "native/graph/backend_error.h"
#include "native/runtime/sidecars.h"

namespace ddpm {
namespace {

Failure unavailable(const std::string& library, const std::string& why) {
  return {"device-unavailable", library + " is not available: " + why};
}

const Collectives& load(const std::string& name) {
  if (name != "mpi") throw Failure::argumentOf("join", "library", "'mpi'", Failure::quoted(name));
  std::string tried, why;
  const std::string path = findSidecar(name, tried);
  if (path.empty())
    throw unavailable(name, "there is no " + tried + "; `npm run build:mpi` builds it in a checkout, with mpicc");
  const auto function = reinterpret_cast<DdpmCollectivesFn>(openSidecar(path, "ddpm_collectives", why));
  if (!why.empty()) throw unavailable(name, why);
  const Collectives* table = function ? function(kCollectivesAbi) : nullptr;
  if (!table)
    throw unavailable(name, path + " does not serve version " + std::to_string(kCollectivesAbi) + " of the interface");
  return *table;
}

}  // namespace

namespace {

// Never destroyed: its thread may outlive static objects.
struct Joined {
  std::mutex mutex;
  std::shared_ptr<HostWorld> world;
  Outcome failed;  // a library begins once
};
Joined& theJoined() {
  static auto& joined = *new Joined;
  return joined;
}

// What a thread that joins shares with who waits for it, and may give it up.
struct Opening {
  std::mutex mutex;
  std::condition_variable wake;
  bool isDone = false, isGivenUp = false;
  Error error;
};

}  // namespace

std::shared_ptr<HostWorld> HostWorld::join(const std::string& library, double seconds) {
  Joined& joined = theJoined();
  const std::lock_guard lock(joined.mutex);
  if (joined.failed) throw Failure(*joined.failed);
  if (joined.world) return joined.world;
  const Collectives& table = load(library);
  try {
    joined.world.reset(new HostWorld(table, seconds));
  } catch (const Failure& failure) {
    joined.failed = std::make_shared<Failure>(failure);
    throw;
  }
  setJoined(joined.world);
  return joined.world;
}

// The library is used by one thread from its beginning to its end. It joins when all ranks do.
HostWorld::HostWorld(const Collectives& table, double seconds) : table_(table) {
  const auto opening = std::make_shared<Opening>();
  thread_ = std::thread([this, &table, opening] {
    Error error;
    WorldHandle* handle = table.open(&error);
    {
      const std::lock_guard lock(opening->mutex);
      if (opening->isGivenUp) return;  // this world is no more
      handle_ = handle;
      if (handle) table.info(handle, &info_);
      opening->error = error;
      opening->isDone = true;
      opening->wake.notify_all();
    }
    if (handle) loop();
  });
  std::unique_lock lock(opening->mutex);
  // By the clock of the day: to wait by the steady one takes a newer glibc (glibc.cpp).
  using Clock = std::chrono::system_clock;
  constexpr double kMost = 1e9;  // what a time point holds
  const auto until = Clock::now() + std::chrono::milliseconds(int64_t(1e3 * std::min(seconds, kMost)));
  if (!opening->wake.wait_until(lock, until, [&] { return opening->isDone; })) {
    opening->isGivenUp = true;
    thread_.detach();
    char text[96];
    std::snprintf(text, sizeof text, "not all ranks joined within %g seconds", seconds);
    throw Failure("rank-failed", text);
  }
  lock.unlock();
  if (handle_) return;
  thread_.join();
  throw unavailable(table.name, toFailure(opening->error).message);
}

HostWorld::~HostWorld() { leave(false); }

void HostWorld::submit(Device::Work work, Device::Done done) {
  const std::lock_guard lock(mutex_);
  if (ends_) throw Failure("closed", "this process has left the world");
  queue_.push_back({std::move(work), std::move(done)});
  wake_.notify_all();
}

void HostWorld::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return ends_ || !queue_.empty(); });
    if (queue_.empty()) break;
    Job job = std::move(queue_.front());
    queue_.pop_front();
    Outcome outcome = failed_;
    if (abandoned_) outcome = std::make_shared<Failure>("closed", "this process has left the world");
    lock.unlock();
    if (!outcome) {
      try {
        job.work();
      } catch (const Failure& failure) {
        outcome = std::make_shared<Failure>(failure);
      } catch (const std::exception& e) {
        outcome = std::make_shared<Failure>("internal", e.what());
      }
    }
    job.done(outcome);
    lock.lock();
    failed_ = outcome;
  }
  const bool fine = !failed_ && !abandoned_;
  lock.unlock();
  if (fine) table_.close(handle_);
}

void HostWorld::leave(bool inOrder) {
  {
    const std::lock_guard lock(mutex_);
    if (ends_) return;
    ends_ = true;
    abandoned_ = !inOrder;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

// Looks again at once at first, as most operations take microseconds; then it sleeps, the longer the longer it has
// waited, since whoever computes meanwhile needs the processor.
void HostWorld::wait(Operation* operation, const char* what, const Error& error) {
  const auto failure = [&](const std::string& why) {
    return Failure("rank-failed", std::string(what) + " of rank " + std::to_string(rank()) + " of " +
                                      std::to_string(size()) + ": " + why);
  };
  if (!operation) throw failure(toFailure(error).message);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (int64_t looks = 0;; ++looks) {
    bool done = false;
    Error testError;
    if (!table_.test(handle_, operation, &done, &testError)) throw failure(toFailure(testError).message);
    if (done) return;
    if (abandoned_) throw failure("this process ends");
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds > timeout_) {
      char text[96];
      std::snprintf(text, sizeof text, "not all ranks came to it within %g seconds", timeout_.load());
      throw failure(text);
    }
    if (looks > 50) std::this_thread::sleep_for(std::chrono::duration<double>(std::clamp(seconds / 32, 20e-6, 1e-3)));
  }
}

void HostWorld::barrier() {
  Error error;
  wait(table_.barrier(handle_, &error), "barrier", error);
}

void HostWorld::broadcast(void* data, size_t bytes, int32_t root) {
  Error error;
  if (rank() == root) countSent(bytes * size_t(size() - 1));
  wait(table_.broadcast(handle_, data, bytes, root, &error), "broadcast", error);
}

void HostWorld::exchange(const void* from, const Part* sent, void* to, const Part* received) {
  Error error;
  for (int32_t r = 0; r < size(); ++r) {
    if (r != rank()) countSent(sent[r].bytes);
  }
  wait(table_.exchange(handle_, from, sent, to, received, &error), "exchange", error);
}

void HostWorld::gather(void* data, const Part* parts) {
  Error error;
  countSent(parts[rank()].bytes * size_t(size() - 1));
  wait(table_.gather(handle_, data, parts, &error), "gather", error);
}

}  // namespace ddpm
