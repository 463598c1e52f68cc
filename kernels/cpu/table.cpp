// The table of kernels of one instruction set.
#include <exception>
#include <new>

#include "kernels/cpu/device.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

CpuDevice& deviceOf(DeviceHandle* handle) { return *reinterpret_cast<CpuDevice*>(handle); }

// No exception leaves the backend.
template <class F>
bool guarded(Error* error, F f) {
  try {
    f();
    return true;
  } catch (const std::bad_alloc& e) {
    setError(error, ErrorCode::outOfMemory, e.what());
  } catch (const std::exception& e) {
    setError(error, ErrorCode::internal, e.what());
  }
  return false;
}

template <class Op>
bool runKernel(DeviceHandle* handle, const Op& op, void* scratch, Error* error) {
  return guarded(error, [&] { run(deviceOf(handle), op, scratch); });
}

template <class Op>
bool scratchOf(DeviceHandle* handle, const Op& op, size_t* bytes, Error* error) {
  return guarded(error, [&] { *bytes = scratch(deviceOf(handle), op); });
}

}  // namespace

void fill(Backend& backend) {
#define DDPM_FILL(Op) backend.k##Op.run = runKernel<Op>;
  DDPM_OPS(DDPM_FILL)
#undef DDPM_FILL
#define DDPM_FILL(Op) backend.k##Op.scratch = scratchOf<Op>;
  DDPM_CPU_SCRATCH_OPS(DDPM_FILL)
#undef DDPM_FILL
  backend.planConv = [](DeviceHandle* d, const Conv2d& op, const PlanOptions& o, ConvPlan* plan, Error* error) {
    return guarded(error, [&] { *plan = planConv(deviceOf(d), op, o); });
  };
  backend.planDgrad = [](DeviceHandle* d, const Conv2dDgrad& op, const PlanOptions& o, ConvPlan* plan, Error* error) {
    return guarded(error, [&] { *plan = planDgrad(deviceOf(d), op, o); });
  };
  backend.planWgrad = [](DeviceHandle* d, const Conv2dWgrad& op, const PlanOptions& o, ConvAlgo* algo, Error* error) {
    return guarded(error, [&] { *algo = planWgrad(deviceOf(d), op, o); });
  };
}

}  // namespace ddpm::cpu::DDPM_ISA
