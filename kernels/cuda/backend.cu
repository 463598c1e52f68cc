// The table that the library beside the addon exports. Compiled with runtime.cu it is the backend "cuda", with
// host/runtime.cpp the backend "cuda-host".
#include <cstdio>
#include <cstring>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/cudnn/library.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/guarded.h"
#include "kernels/cuda/nccl/links.h"
#include "kernels/cuda/tuning.h"
#ifndef __CUDACC__
#include "kernels/cuda/host/grid.h"
#endif

namespace ddpm::cuda {
namespace {

DeviceHandle* open(const DeviceOptions& options, Error* error) {
  CudaDevice* device = nullptr;
  guarded(error, [&] { device = new CudaDevice(options.index); });
  return reinterpret_cast<DeviceHandle*>(device);
}

void close(DeviceHandle* handle) { delete &deviceOf(handle); }

void info(DeviceHandle* handle, DeviceInfo* out) {
  std::memset(out, 0, sizeof *out);
  Error ignored;  // there is no way to report it here, and the next call will
  onDevice(handle, &ignored, [&](CudaDevice& device) { device.describe(out); });
}

void libraries(DeviceHandle* handle, char* text, size_t bytes) {
  const std::string note = deviceOf(handle).memoryNote();
  std::snprintf(text, bytes, "%s%s%s", cudnn::description().c_str(), note.empty() ? "" : "; ", note.c_str());
}

void* allocate(DeviceHandle* handle, size_t bytes, Error* error) {
  void* memory = nullptr;
  onDevice(handle, error, [&](CudaDevice& device) { memory = device.allocate(bytes); });
  return memory;
}

void release(DeviceHandle* handle, void* memory) {
  Error ignored;  // of use(); the next call will report it
  onDevice(handle, &ignored, [&](CudaDevice& device) { device.release(memory); });
}

bool copyIn(DeviceHandle* handle, void* to, const void* from, size_t bytes, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.copyIn(to, from, bytes); });
}
bool copyOut(DeviceHandle* handle, void* to, const void* from, size_t bytes, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.copyOut(to, from, bytes); });
}
bool copy(DeviceHandle* handle, void* to, const void* from, size_t bytes, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.copy(to, from, bytes); });
}
bool synchronize(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.synchronize(); });
}

bool beginRecording(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.beginRecording(); });
}
Recording* endRecording(DeviceHandle* handle, Error* error) {
  Recording* recording = nullptr;
  onDevice(handle, error, [&](CudaDevice& device) { recording = device.endRecording(); });
  return recording;
}
bool replay(DeviceHandle* handle, Recording* recording, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { device.replay(recording); });
}
void releaseRecording(DeviceHandle* handle, Recording* recording) {
  Error ignored;
  onDevice(handle, &ignored, [&](CudaDevice& device) { device.release(recording); });
}

#ifndef __CUDACC__
bool list(DeviceHandle* handle, void (*issue)(void*), void (*add)(void*, const Launch&), void* argument, Error* error) {
  return onDevice(handle, error, [&](CudaDevice&) {
    std::vector<Launch> launches;
    host::listed = &launches;
    issue(argument);
    host::listed = nullptr;
    for (const Launch& launch : launches) add(argument, launch);
  });
}
#endif

template <class Op>
bool runKernel(DeviceHandle* handle, const Op& op, void* scratch, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { run(device, op, scratch); });
}

template <class Op>
bool scratchOf(DeviceHandle* handle, const Op& op, size_t* bytes, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { *bytes = scratch(device, op); });
}

bool planConv(DeviceHandle* handle, const Conv2d& op, const PlanOptions& options, ConvPlan* plan, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { *plan = cuda::planConv(device, op, options); });
}
bool planDgrad(DeviceHandle* handle, const Conv2dDgrad& op, const PlanOptions& options, ConvPlan* plan, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { *plan = cuda::planDgrad(device, op, options); });
}
bool planWgrad(DeviceHandle* handle, const Conv2dWgrad& op, const PlanOptions& options, ConvAlgo* algo, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { *algo = cuda::planWgrad(device, op, options); });
}

ddpm::Gathered* gather(DeviceHandle*) {
  if (!Stopwatch::works()) return nullptr;
  ddpm::Gathered* gathered = nullptr;
  Error ignored;  // of memory: then nothing is timed
  guarded(&ignored, [&] { gathered = reinterpret_cast<ddpm::Gathered*>(new cuda::Gathered); });
  return gathered;
}

void chooseAll(DeviceHandle* handle, ddpm::Gathered* opaque, const std::atomic<bool>& stop) {
  const std::unique_ptr<cuda::Gathered> gathered(reinterpret_cast<cuda::Gathered*>(opaque));
  Error ignored;  // what was not chosen is planned as where nothing is timed
  onDevice(handle, &ignored, [&](CudaDevice& device) { gathered->choose(device, stop); });
}

Backend make() {
  Backend b = {};
  b.abi = kBackendAbi;
  b.name = CudaDevice::backendName();
  b.precisions = precisionBit(DType::f32) | precisionBit(DType::f16) | precisionBit(DType::bf16);
  b.weightFormats = precisionBit(DType::f32);
  b.deviceCount = CudaDevice::count;
  b.open = open;
  b.close = close;
  b.info = info;
  b.libraries = libraries;
  b.allocate = allocate;
  b.release = release;
  b.copyIn = copyIn;
  b.copyOut = copyOut;
  b.copy = copy;
  b.synchronize = synchronize;
  b.beginRecording = beginRecording;
  b.endRecording = endRecording;
  b.replay = replay;
  b.releaseRecording = releaseRecording;
#ifndef __CUDACC__
  b.list = list;
#endif
  b.planConv = planConv;
  b.planDgrad = planDgrad;
  b.planWgrad = planWgrad;
  b.gather = gather;
  b.choose = chooseAll;
  b.links = nccl::links();
#define DDPM_KERNEL(Op) b.k##Op.run = runKernel<Op>;
  DDPM_OPS(DDPM_KERNEL)
#undef DDPM_KERNEL
#define DDPM_SCRATCH(Op) b.k##Op.scratch = scratchOf<Op>;
  DDPM_CUDA_SCRATCH_OPS(DDPM_SCRATCH)
#undef DDPM_SCRATCH
  return b;
}

}  // namespace
}  // namespace ddpm::cuda

extern "C" __attribute__((visibility("default"))) const ddpm::Backend* ddpm_backend(int32_t abi) {
  static const ddpm::Backend backend = ddpm::cuda::make();
  return abi == ddpm::kBackendAbi ? &backend : nullptr;
}
