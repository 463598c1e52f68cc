// The reference backend: a library of its own, opened by name, in test builds only.
#include "kernels/backend.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

bool fail(Error* error, ErrorCode code, const char* message) {
  error->code = code;
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return false;
}

template <class Op>
bool runKernel(DeviceHandle*, const Op& op, void*, Error* error) {
  try {
    run(op);
    return true;
  } catch (const std::bad_alloc&) {
    return fail(error, ErrorCode::outOfMemory, "the reference backend is out of memory");
  } catch (const std::exception& e) {
    return fail(error, ErrorCode::internal, e.what());
  }
}

int32_t deviceCount(Error*) { return 1; }

// There is nothing to hold, but a device must have an address.
DeviceHandle* open(const DeviceOptions& options, Error* error) {
  static char device;
  if (options.index != 0) {
    fail(error, ErrorCode::deviceUnavailable, "the reference backend has one device, 0");
    return nullptr;
  }
  return reinterpret_cast<DeviceHandle*>(&device);
}

void close(DeviceHandle*) {}

void info(DeviceHandle*, DeviceInfo* out) {
  std::snprintf(out->name, sizeof out->name, "reference");
  std::snprintf(out->isa, sizeof out->isa, "scalar");
  out->threads = 1;
  out->memoryBytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  out->freeBytes = out->memoryBytes;  // nothing asks
}

// Filled with NaN (as i32: -1), so that a read of memory that nothing wrote shows in the result.
void* allocate(DeviceHandle*, size_t bytes, Error* error) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* memory = rounded < bytes ? nullptr : std::aligned_alloc(64, rounded ? rounded : 64);
  if (!memory) {
    fail(error, ErrorCode::outOfMemory, "the reference backend is out of memory");
    return nullptr;
  }
  std::memset(memory, 0xFF, rounded);
  return memory;
}

void release(DeviceHandle*, void* memory) { std::free(memory); }

bool copyIn(DeviceHandle*, void* to, const void* from, size_t bytes, Error*) {
  if (bytes) std::memmove(to, from, bytes);
  return true;
}
bool copyOut(DeviceHandle*, void* to, const void* from, size_t bytes, Error*) {
  if (bytes) std::memmove(to, from, bytes);
  return true;
}
bool copy(DeviceHandle*, void* to, const void* from, size_t bytes, Error*) {
  if (bytes) std::memmove(to, from, bytes);
  return true;
}
bool synchronize(DeviceHandle*, Error*) { return true; }

// There is one algorithm, whatever the options ask for; it reads the weights as they are.
template <class Op>
bool plan(DeviceHandle*, const Op&, const PlanOptions&, ConvPlan* plan, Error*) {
  *plan = {ConvAlgo::direct, 0};
  return true;
}
bool planWgrad(DeviceHandle*, const Conv2dWgrad&, const PlanOptions&, ConvAlgo* algo, Error*) {
  *algo = ConvAlgo::direct;
  return true;
}

Backend make() {
  Backend b = {};
  b.abi = kBackendAbi;
  b.name = "reference";
  b.precisions = precisionBit(DType::f32) | precisionBit(DType::f16) | precisionBit(DType::bf16);
  b.weightFormats = b.precisions | precisionBit(DType::i8);
  b.deviceCount = deviceCount;
  b.open = open;
  b.close = close;
  b.info = info;
  b.allocate = allocate;
  b.release = release;
  b.copyIn = copyIn;
  b.copyOut = copyOut;
  b.copy = copy;
  b.synchronize = synchronize;
  b.planConv = plan<Conv2d>;
  b.planDgrad = plan<Conv2dDgrad>;
  b.planWgrad = planWgrad;
#define DDPM_KERNEL(Op) b.k##Op.run = runKernel<Op>;
  DDPM_OPS(DDPM_KERNEL)
#undef DDPM_KERNEL
  return b;
}

}  // namespace
}  // namespace ddpm::reference

extern "C" __attribute__((visibility("default"))) const ddpm::Backend* ddpm_backend(int32_t abi) {
  static const ddpm::Backend backend = ddpm::reference::make();
  return abi == ddpm::kBackendAbi ? &backend : nullptr;
}
