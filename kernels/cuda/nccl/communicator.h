// One device's place among those of other processes. What is asked for here only puts work on the device's stream, and
// may be recorded. NCCL is asked not to block, and every wait is bounded: a rank that is gone ends in an error.
#pragma once
#include <atomic>
#include <functional>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/cuda/nccl/library.h"

namespace ddpm::cuda::nccl {

class Communicator {
 public:
  // Throws rankFailed where not all others come.
  Communicator(const Library& library, CudaDevice& device, const UniqueId& id, int32_t rank, int32_t size);
  // Without leave() before, breaks the group.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const Library& library() const { return library_; }

  // See Links.
  void exchange(const void* from, const Part* sent, void* to, const Part* received);
  void gather(void* data, const Part* parts);
  void leave();
  // Throws where the group is broken.
  void check() const;
  bool isBroken() const { return !why_.empty(); }

  // Until `isDone` says so, which is asked often at first: most waits take microseconds. Throws rankFailed after the
  // time of the device's `patience`, and when NCCL has lost a rank; then the group is broken, and the stream goes on.
  void wait(const std::string& what, const std::function<bool()>& isDone);

 private:
  // Of a call of NCCL, which ends before it returns, or later.
  void settle(const std::string& call, Status status);
  void group(const std::string& what, const std::function<Status()>& calls);
  [[noreturn]] void fail(const std::string& why);

  const Library& library_;
  const Api& api_;
  CudaDevice& device_;
  const int32_t rank_, size_;
  Comm comm_ = nullptr;
  std::string why_;  // the group is broken; else empty
};

}  // namespace ddpm::cuda::nccl
