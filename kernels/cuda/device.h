// A device of the CUDA backend and what every op's file gets of it. Two files implement it: runtime.cu for GPUs, and
// host/runtime.cpp for the CPU, where the kernels are tested.
//
// An op's file reads: a note, kernels, launchers. A launcher is
//
//     void run(CudaDevice& device, const Op& op, void* scratch);
//
// and an op that wants scratch memory is named in DDPM_CUDA_SCRATCH_OPS and has `size_t scratch(const CudaDevice&,
// const Op&)`, which looks at shapes only. A launcher only puts kernels on the device's stream: it may be recorded into
// a CUDA graph. It throws BackendError.
#pragma once
#include <atomic>
#include <exception>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "kernels/backend.h"

struct CUevent_st;
struct CUstream_st;
struct CUmemPoolHandle_st;

namespace ddpm::cuda {

using Stream = CUstream_st*;  // cudaStream_t

namespace nccl {
class Communicator;
}

// For other processes, how long they are waited for. Set by any thread.
struct Patience {
  std::atomic<double> seconds{600};
  std::atomic<bool> isOver{false};
};

class BackendError : public std::exception {
 public:
  BackendError(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  ErrorCode code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
};

class CudaDevice {
 public:
  static const char* backendName();
  // See Backend::deviceCount.
  static int32_t count(Error* why);

  explicit CudaDevice(int32_t index);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // Makes it the calling thread's device; before anything else is asked of it.
  void use() const;
  void describe(DeviceInfo* out) const;
  // For reports, where memory is not allocated as it should be; else empty.
  std::string memoryNote() const;

  void* allocate(size_t bytes);
  void release(void* memory) noexcept;  // what goes wrong is thrown by the next synchronize()
  void copyIn(void* device, const void* host, size_t bytes);
  void copyOut(void* host, const void* device, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void synchronize();

  // See Backend::beginRecording.
  void beginRecording();
  Recording* endRecording();
  void replay(Recording* recording);
  void release(Recording* recording) noexcept;

  // See Links: on a second stream, which the thread that issues has meanwhile.
  void beginAside();
  void endAside();
  void awaitAside();

  // With the devices of other processes, once it has joined them (nccl/).
  std::unique_ptr<nccl::Communicator> communicator;
  Patience patience;

  int32_t index() const { return index_; }
  // Where a launcher puts its kernels. Another one for the thread that records, or that issues aside.
  Stream stream() const { return aside_ == std::this_thread::get_id() ? asideStream_ : mainStream(); }
  int multiprocessors() const { return multiprocessors_; }

 private:
  Stream mainStream() const { return recorder_ == std::this_thread::get_id() ? recordingStream_ : stream_; }
  void makePool();
  void finish();
  void close() noexcept;

  int32_t index_;
  Stream stream_ = nullptr, recordingStream_ = nullptr;
  Stream asideStream_ = nullptr;        // once it is asked for
  CUevent_st* order_ = nullptr;         // between that and the others
  CUmemPoolHandle_st* pool_ = nullptr;  // null where memory cannot be allocated in the order of the stream
  std::string whyNoPool_;
  int multiprocessors_ = 0;
  std::atomic<std::thread::id> recorder_{}, aside_{};
  std::set<Recording*> recordings_;
  std::string deferred_;  // a failure of release(), for the next synchronize()
};

#define DDPM_DECLARE_RUN(Op) void run(CudaDevice& device, const Op& op, void* scratch);
DDPM_OPS(DDPM_DECLARE_RUN)
#undef DDPM_DECLARE_RUN

#define DDPM_CUDA_SCRATCH_OPS(X) \
  X(Conv2d)                      \
  X(Conv2dDgrad)                 \
  X(Conv2dWgrad)                 \
  X(GroupNorm) X(GroupNormBackward) X(LayerNormBackward) X(AttentionBackward) X(LinearAttentionBackward)

#define DDPM_DECLARE_SCRATCH(Op) size_t scratch(const CudaDevice& device, const Op& op);
DDPM_CUDA_SCRATCH_OPS(DDPM_DECLARE_SCRATCH)
#undef DDPM_DECLARE_SCRATCH

// Algorithms of convolutions; see Backend.
ConvPlan planConv(const CudaDevice& device, const Conv2d& op, const PlanOptions& options);
ConvPlan planDgrad(const CudaDevice& device, const Conv2dDgrad& op, const PlanOptions& options);
ConvAlgo planWgrad(const CudaDevice& device, const Conv2dWgrad& op, const PlanOptions& options);

}  // namespace ddpm::cuda
