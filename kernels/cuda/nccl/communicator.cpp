#include "kernels/cuda/nccl/communicator.h"

#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "kernels/cuda/tuning.h"

namespace ddpm::cuda::nccl {

Communicator::Communicator(const Library& library, CudaDevice& device, const UniqueId& id, int32_t rank, int32_t size)
    : library_(library), api_(library.api), device_(device), rank_(rank), size_(size) {
  Config config;
  config.blocking = 0;
  settle("ncclCommInitRankConfig", api_.commInitRankConfig(&comm_, size, id, rank, &config));
}

Communicator::~Communicator() {
  if (comm_) api_.commAbort(comm_);
}

void Communicator::check() const {
  if (isBroken()) throw BackendError(ErrorCode::rankFailed, why_);
  if (!comm_) throw BackendError(ErrorCode::rankFailed, "this device has left the others");
}

void Communicator::fail(const std::string& why) {
  why_ = why + " (rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ")";
  if (comm_) api_.commAbort(comm_);
  comm_ = nullptr;
  throw BackendError(ErrorCode::rankFailed, why_);
}

void Communicator::wait(const std::string& what, const std::function<bool()>& isDone) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (int64_t looks = 0; !isDone(); ++looks) {
    Status state = kSuccess;
    const Status asked = comm_ ? api_.commGetAsyncError(comm_, &state) : kSuccess;
    if (asked != kSuccess) state = asked;
    if (state != kSuccess && state != kInProgress) fail(what + ": " + api_.getErrorString(state));
    if (device_.patience.isOver) fail(what + ": this process ends");
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds > device_.patience.seconds) {
      char text[96];
      std::snprintf(text, sizeof text, ": not all ranks came to it within %g seconds", device_.patience.seconds.load());
      fail(what + text);
    }
    if (looks < 1000)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(seconds < 0.1 ? 50 : 500));
  }
}

void Communicator::settle(const std::string& call, Status status) {
  if (status == kInProgress) {
    wait(call, [&] {
      const Status asked = api_.commGetAsyncError(comm_, &status);
      if (asked != kSuccess) status = asked;
      return status != kInProgress;
    });
  }
  if (status != kSuccess) fail(call + ": " + api_.getErrorString(status));
}

void Communicator::group(const std::string& what, const std::function<Status()>& calls) {
  check();
  Status status = api_.groupStart();
  if (status == kSuccess) status = calls();
  // Also after a failure: a group that is open would take what comes next.
  const Status ended = api_.groupEnd();
  if (status != kSuccess && status != kInProgress) fail(what + ": " + api_.getErrorString(status));
  settle(what, ended);
}

namespace {

// The first failure, or kSuccess.
class Calls {
 public:
  void add(Status status) {
    if (status_ == kSuccess && status != kInProgress) status_ = status;
  }
  Status status() const { return status_; }

 private:
  Status status_ = kSuccess;
};

const char* at(const void* data, const Part& part) { return static_cast<const char*>(data) + part.offset; }
char* at(void* data, const Part& part) { return static_cast<char*>(data) + part.offset; }

// Whether the parts are of one size and lie one after another, as ncclAllGather has them.
bool areEven(const std::vector<Part>& parts) {
  for (size_t r = 0; r < parts.size(); ++r)
    if (parts[r].bytes != parts[0].bytes || parts[r].offset != parts[0].offset + r * parts[0].bytes) return false;
  return true;
}

}  // namespace

void Communicator::exchange(const void* from, const Part* sent, void* to, const Part* received) {
  check();
  if (sent[rank_].bytes) device_.copy(at(to, received[rank_]), at(from, sent[rank_]), sent[rank_].bytes);
  issue([this, from, to, stream = device_.stream(), out = std::vector<Part>(sent, sent + size_),
         in = std::vector<Part>(received, received + size_)] {
    group("an exchange", [&] {
      Calls calls;
      for (int32_t r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        const Part &sends = out[size_t(r)], &receives = in[size_t(r)];
        if (sends.bytes) calls.add(api_.send(at(from, sends), sends.bytes, DataType::int8, r, comm_, stream));
        if (receives.bytes) calls.add(api_.recv(at(to, receives), receives.bytes, DataType::int8, r, comm_, stream));
      }
      return calls.status();
    });
  });
}

void Communicator::gather(void* data, const Part* all) {
  check();
  issue([this, data, stream = device_.stream(), parts = std::vector<Part>(all, all + size_)] {
    group("a gathering", [&] {
      const Part& own = parts[size_t(rank_)];
      if (areEven(parts))
        return api_.allGather(at(data, own), at(data, parts[0]), own.bytes, DataType::int8, comm_, stream);
      Calls calls;
      for (int32_t r = 0; r < size_; ++r) {
        const Part& part = parts[size_t(r)];
        char* place = at(data, part);
        if (part.bytes) calls.add(api_.broadcast(place, place, part.bytes, DataType::int8, r, comm_, stream));
      }
      return calls.status();
    });
  });
}

void Communicator::leave() {
  if (!comm_) return;
  settle("ncclCommFinalize", api_.commFinalize(comm_));
  const Comm comm = comm_;
  comm_ = nullptr;
  api_.commDestroy(comm);
}

}  // namespace ddpm::cuda::nccl
