// The device as a GPU: memory, copies and errors through the CUDA runtime. The runtime is linked statically and opens
// the driver itself, so that this library loads where there is none and can say so.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/nccl/communicator.h"

#ifndef DDPM_CUDA_ARCHS
#define DDPM_CUDA_ARCHS "unknown"
#endif

namespace ddpm::cuda {
namespace {

// Asked for its attributes, it tells whether the library has code for a device.
__global__ void probeKernel() {}

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

// The version of the kernel module, "580.65.06", of which libcuda.so.1 is a part; empty where it is not told.
std::string driverVersion() {
  std::string text;
  if (FILE* file = std::fopen("/sys/module/nvidia/version", "r")) {
    char line[64] = {0};
    if (std::fgets(line, sizeof line, file)) text = line;
    std::fclose(file);
  }
  return text.substr(0, text.find('\n'));
}

std::string reason(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

// Why no device can be asked for at all; empty when some can.
std::string whyNoDevices(int* count) {
  *count = 0;
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver) return std::string("no NVIDIA driver: ") + dlerror();
  dlclose(driver);
  const cudaError_t status = cudaGetDeviceCount(count);
  cudaGetLastError();  // an error here is not the next call's
  int supported = 0;
  cudaDriverGetVersion(&supported);
  if (status == cudaErrorInsufficientDriver) {
    const std::string name = driverVersion();
    return "the NVIDIA driver " + (name.empty() ? "" : name + " ") + "is too old: it supports CUDA " +
           version(supported) + ", this library needs CUDA " + version(CUDART_VERSION / 1000 * 1000);
  }
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (status == cudaErrorNoDevice || (status == cudaSuccess && *count == 0))
    return std::string("the NVIDIA driver shows no GPU") +
           (visible ? " (CUDA_VISIBLE_DEVICES is \"" + std::string(visible) + "\")" : "");
  if (status != cudaSuccess) return "cudaGetDeviceCount failed, " + reason(status);
  return "";
}

// Why this device cannot be used; empty when it can.
std::string whyNot(int index) {
  cudaDeviceProp properties;
  cudaError_t status = cudaGetDeviceProperties(&properties, index);
  if (status == cudaSuccess) status = cudaSetDevice(index);
  if (status == cudaSuccess) {
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, probeKernel);
  } else {
    cudaGetLastError();
    return "cuda:" + std::to_string(index) + " cannot be opened, " + reason(status);
  }
  cudaGetLastError();
  if (status == cudaSuccess) return "";
  const std::string name = std::string(properties.name) + " (compute capability " + std::to_string(properties.major) +
                           "." + std::to_string(properties.minor) + ")";
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorUnsupportedPtxVersion)
    return "cuda:" + std::to_string(index) + " is " + name + ", and this library has code for " DDPM_CUDA_ARCHS " only";
  return "cuda:" + std::to_string(index) + ", " + name + ", cannot be opened, " + reason(status);
}

void setError(Error* error, ErrorCode code, const std::string& message) {
  error->code = code;
  std::snprintf(error->message, sizeof error->message, "%s", message.c_str());
}

// After one of these every call fails: the process has lost the GPU.
bool isLost(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:  // what a driver gives for a fault that it has no name for
      return true;
    default:
      return false;
  }
}

ErrorCode codeOf(cudaError_t status) {
  return isLost(status)                        ? ErrorCode::deviceUnavailable
         : status == cudaErrorMemoryAllocation ? ErrorCode::outOfMemory
                                               : ErrorCode::internal;
}

cudaGraphExec_t graphOf(Recording* recording) { return reinterpret_cast<cudaGraphExec_t>(recording); }

}  // namespace

void checkCuda(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const char* name = std::strrchr(file, '/');
  const std::string what =
      reason(status) + " (" + (name ? name + 1 : file) + ":" + std::to_string(line) + ": " + expression + ")";
  if (isLost(status))
    throw BackendError(ErrorCode::deviceUnavailable,
                       "a kernel failed and this process has lost the GPU, " + what + "; DDPM_DEBUG=sync names the op");
  throw BackendError(codeOf(status), what);
}

void checkLaunch(cudaError_t status, const std::string& kernel, dim3 grid, dim3 block, size_t shared) {
  if (status == cudaSuccess) return;
  const auto extent = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  throw BackendError(codeOf(status), "kernel " + kernel + " (" + extent(grid) + " blocks of " + extent(block) +
                                         " threads, " + std::to_string(shared) +
                                         " bytes of shared memory) could not be launched: " + reason(status));
}

const char* CudaDevice::backendName() { return "cuda"; }

int32_t CudaDevice::count(Error* why) {
  int count = 0;
  std::string reason = whyNoDevices(&count);
  bool any = false;
  for (int i = 0; i < count && !any; ++i) {
    const std::string problem = whyNot(i);
    any = problem.empty();
    if (reason.empty()) reason = problem;
  }
  if (any) return count;
  setError(why, ErrorCode::deviceUnavailable, reason);
  return 0;
}

CudaDevice::CudaDevice(int32_t index) : index_(index) {
  int count = 0;
  std::string problem = whyNoDevices(&count);
  if (problem.empty() && (index < 0 || index >= count))
    problem = "there is no cuda:" + std::to_string(index) + "; the driver shows " + std::to_string(count) +
              (count == 1 ? " GPU" : " GPUs");
  if (problem.empty()) problem = whyNot(index);
  if (!problem.empty()) throw BackendError(ErrorCode::deviceUnavailable, problem);
  DDPM_CUDA(cudaSetDevice(index));
  DDPM_CUDA(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, index));
  try {
    makePool();
    DDPM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    DDPM_CUDA(cudaStreamCreateWithFlags(&recordingStream_, cudaStreamNonBlocking));
  } catch (...) {
    close();
    throw;
  }
}

CudaDevice::~CudaDevice() { close(); }

// Some virtual machines and shared GPUs say that they have pools, and cannot make one.
void CudaDevice::makePool() {
  int pools = 0;
  DDPM_CUDA(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index_));
  if (!pools) {
    whyNoPool_ = "the driver has no pools";
    return;
  }
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = index_;
  cudaError_t status = cudaMemPoolCreate(&pool_, &properties);
  if (status != cudaSuccess) pool_ = nullptr;
  // Freed memory stays in the pool: the next program's arena is likely to be of the same size.
  uint64_t keep = UINT64_MAX;
  if (pool_) status = cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep);
  if (status == cudaSuccess) return;
  if (isLost(status)) DDPM_CUDA(status);
  if (pool_) cudaMemPoolDestroy(pool_);
  pool_ = nullptr;
  cudaGetLastError();
  whyNoPool_ = reason(status);
}

void CudaDevice::close() noexcept {
  cudaSetDevice(index_);
  communicator.reset();  // otherwise the stream may wait for others
  if (stream_) cudaStreamSynchronize(stream_);
  for (Recording* recording : recordings_) cudaGraphExecDestroy(graphOf(recording));
  if (recordingStream_) cudaStreamDestroy(recordingStream_);
  if (asideStream_) cudaStreamDestroy(asideStream_);
  if (order_) cudaEventDestroy(order_);
  if (stream_) cudaStreamDestroy(stream_);
  if (pool_) cudaMemPoolDestroy(pool_);
  cudaGetLastError();
}

std::string CudaDevice::memoryNote() const {
  return pool_ ? "" : "memory by cudaMalloc, not from a pool: " + whyNoPool_;
}

void CudaDevice::use() const { DDPM_CUDA(cudaSetDevice(index_)); }

void CudaDevice::describe(DeviceInfo* out) const {
  cudaDeviceProp properties;
  DDPM_CUDA(cudaGetDeviceProperties(&properties, index_));
  std::snprintf(out->name, sizeof out->name, "%s", properties.name);
  std::snprintf(out->isa, sizeof out->isa, "sm_%d%d", properties.major, properties.minor);
  out->threads = properties.multiProcessorCount;
  size_t available = 0, total = 0;
  DDPM_CUDA(cudaMemGetInfo(&available, &total));
  out->memoryBytes = total;
  out->freeBytes = available;
  if (!pool_) return;
  uint64_t reserved = 0, used = 0;  // what the pool keeps is ours to allocate
  DDPM_CUDA(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  DDPM_CUDA(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  out->freeBytes += reserved - used;
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory, in the order of the stream where there is a pool

void* CudaDevice::allocate(size_t bytes) {
  void* memory = nullptr;
  const auto attempt = [&] {
    const size_t some = bytes ? bytes : 1;
    const cudaError_t status =
        pool_ ? cudaMallocFromPoolAsync(&memory, some, pool_, stream_) : cudaMalloc(&memory, some);
    if (status == cudaErrorMemoryAllocation) cudaGetLastError();
    return status;
  };
  cudaError_t status = attempt();
  if (status == cudaErrorMemoryAllocation && pool_) {  // it may keep memory in pieces that do not fit
    DDPM_CUDA(cudaStreamSynchronize(stream_));
    DDPM_CUDA(cudaMemPoolTrimTo(pool_, 0));
    status = attempt();
  }
  if (status == cudaErrorMemoryAllocation) {
    size_t available = 0, total = 0;
    DDPM_CUDA(cudaMemGetInfo(&available, &total));
    throw BackendError(ErrorCode::outOfMemory,
                       "cuda:" + std::to_string(index_) + " is out of memory: " + std::to_string(bytes) +
                           " bytes asked for, " + std::to_string(available) + " of " + std::to_string(total) + " free");
  }
  DDPM_CUDA(status);
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  if (!memory) return;
  const cudaError_t status = pool_ ? cudaFreeAsync(memory, stream_) : cudaFree(memory);  // which waits
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (deferred_.empty() && !isLost(status)) deferred_ = "memory was not freed, " + reason(status);
}

// Of pageable memory, cudaMemcpyAsync may read the source after it has returned (CUDA Runtime API, "API synchronization
// behavior").
void CudaDevice::copyIn(void* device, const void* host, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
  finish();
}

void CudaDevice::copyOut(void* host, const void* device, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  finish();
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
}

// Waits for the stream; where others' devices have a part in it, no longer than they are waited for.
void CudaDevice::finish() {
  if (!communicator || communicator->isBroken()) {
    DDPM_CUDA(cudaStreamSynchronize(stream_));
    return;
  }
  cudaError_t status = cudaSuccess;
  communicator->wait("what the device has to do", [&] {
    status = cudaStreamQuery(stream_);
    if (status == cudaErrorNotReady) cudaGetLastError();
    return status != cudaErrorNotReady;
  });
  DDPM_CUDA(status);
}

void CudaDevice::synchronize() {
  finish();
  if (deferred_.empty()) return;
  const std::string what = std::move(deferred_);
  deferred_.clear();
  throw BackendError(ErrorCode::internal, what);
}

// ---------------------------------------------------------------------------------------------------------------------
// Recordings: CUDA graphs, captured from a stream of their own, so that what another thread allocates meanwhile does
// not become a part of them.

void CudaDevice::beginRecording() {
  DDPM_CUDA(cudaStreamBeginCapture(recordingStream_, cudaStreamCaptureModeThreadLocal));
  recorder_ = std::this_thread::get_id();
}

Recording* CudaDevice::endRecording() {
  recorder_ = std::thread::id();
  cudaGraph_t graph = nullptr;
  DDPM_CUDA(cudaStreamEndCapture(recordingStream_, &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  DDPM_CUDA(status);
  const auto recording = reinterpret_cast<Recording*>(executable);
  recordings_.insert(recording);
  return recording;
}

void CudaDevice::replay(Recording* recording) { DDPM_CUDA(cudaGraphLaunch(graphOf(recording), stream_)); }

// In a recording, the events make two branches of it.
void CudaDevice::beginAside() {
  if (!order_) DDPM_CUDA(cudaEventCreateWithFlags(&order_, cudaEventDisableTiming));
  if (!asideStream_) DDPM_CUDA(cudaStreamCreateWithFlags(&asideStream_, cudaStreamNonBlocking));
  DDPM_CUDA(cudaEventRecord(order_, mainStream()));
  DDPM_CUDA(cudaStreamWaitEvent(asideStream_, order_, 0));
  aside_ = std::this_thread::get_id();
}

void CudaDevice::endAside() { aside_ = std::thread::id(); }

void CudaDevice::awaitAside() {
  if (!asideStream_) return;
  DDPM_CUDA(cudaEventRecord(order_, asideStream_));
  DDPM_CUDA(cudaStreamWaitEvent(mainStream(), order_, 0));
}

// A graph that still runs is destroyed when it is done.
void CudaDevice::release(Recording* recording) noexcept {
  if (recordings_.erase(recording) == 0) return;
  cudaGraphExecDestroy(graphOf(recording));
  cudaGetLastError();
}

}  // namespace ddpm::cuda
