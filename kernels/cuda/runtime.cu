// The device as a GPU: memory, copies and errors through the CUDA runtime. The runtime is linked statically and opens
// the driver itself, so that this library loads where there is none and can say so.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cuda/gpu.cuh"

#ifndef DDPM_CUDA_ARCHS
#define DDPM_CUDA_ARCHS "unknown"
#endif

namespace ddpm::cuda {
namespace {

// Asked for its attributes, it tells whether the library has code for a device.
__global__ void probeKernel() {}

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

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
  int driverVersion = 0;
  cudaDriverGetVersion(&driverVersion);
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is too old: it supports CUDA " + version(driverVersion) + ", this library needs CUDA " +
           version(CUDART_VERSION / 1000 * 1000);
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

cudaMemPool_t memoryPool(int index) {
  cudaMemPool_t pool;
  DDPM_CUDA(cudaDeviceGetDefaultMemPool(&pool, index));
  return pool;
}

}  // namespace

void checkCuda(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const char* name = std::strrchr(file, '/');
  throw BackendError(
      status == cudaErrorMemoryAllocation ? ErrorCode::outOfMemory : ErrorCode::internal,
      reason(status) + " (" + (name ? name + 1 : file) + ":" + std::to_string(line) + ": " + expression + ")");
}

void checkLaunch(cudaError_t status, const std::string& kernel) {
  if (status == cudaSuccess) return;
  throw BackendError(ErrorCode::internal, "kernel " + kernel + " could not be launched: " + reason(status));
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
  // Freed memory stays in the pool: the next program's arena is likely to be of the same size.
  uint64_t keep = UINT64_MAX;
  DDPM_CUDA(cudaMemPoolSetAttribute(memoryPool(index), cudaMemPoolAttrReleaseThreshold, &keep));
  DDPM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaDevice::~CudaDevice() {
  cudaSetDevice(index_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
  cudaMemPool_t pool;
  if (cudaDeviceGetDefaultMemPool(&pool, index_) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
  cudaGetLastError();
}

void CudaDevice::use() const { DDPM_CUDA(cudaSetDevice(index_)); }

void CudaDevice::describe(DeviceInfo* out) const {
  cudaDeviceProp properties;
  DDPM_CUDA(cudaGetDeviceProperties(&properties, index_));
  std::snprintf(out->name, sizeof out->name, "%s", properties.name);
  std::snprintf(out->isa, sizeof out->isa, "sm_%d%d", properties.major, properties.minor);
  out->threads = properties.multiProcessorCount;
  out->memoryBytes = properties.totalGlobalMem;
}

void* CudaDevice::allocate(size_t bytes) {
  void* memory = nullptr;
  cudaError_t status = cudaMallocAsync(&memory, bytes ? bytes : 1, stream_);
  if (status == cudaErrorMemoryAllocation) {  // the pool may keep memory in pieces that do not fit
    cudaGetLastError();
    DDPM_CUDA(cudaStreamSynchronize(stream_));
    DDPM_CUDA(cudaMemPoolTrimTo(memoryPool(index_), 0));
    status = cudaMallocAsync(&memory, bytes ? bytes : 1, stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    DDPM_CUDA(cudaMemGetInfo(&available, &total));
    throw BackendError(ErrorCode::outOfMemory,
                       "cuda:" + std::to_string(index_) + " is out of memory: " + std::to_string(bytes) +
                           " bytes asked for, " + std::to_string(available) + " of " + std::to_string(total) + " free");
  }
  DDPM_CUDA(status);
  return memory;
}

void CudaDevice::release(void* memory) {
  if (memory) DDPM_CUDA(cudaFreeAsync(memory, stream_));
}

// From pageable memory cudaMemcpyAsync returns when the source has been read.
void CudaDevice::copyIn(void* device, const void* host, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaDevice::copyOut(void* host, const void* device, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  DDPM_CUDA(cudaStreamSynchronize(stream_));
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  DDPM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

void CudaDevice::synchronize() { DDPM_CUDA(cudaStreamSynchronize(stream_)); }

}  // namespace ddpm::cuda
