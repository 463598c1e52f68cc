#include "test/fake-cudart/kernels.h"

#include "test/fake-cudart/faults.h"
#include "test/fake-cudart/report.h"

namespace fake {
namespace {

// CUDA C++ Programming Guide, "Compute Capabilities": the same for all that the library has code for, but shared
// memory.
constexpr uint64_t kRegisters = 65536;
constexpr uint64_t kWarp = 32, kRegisterUnit = 256, kWarpUnit = 4;  // granularity in which registers are given to warps

std::map<const void*, Function>& functions() {
  static auto& all = *new std::map<const void*, Function>;
  return all;
}

uint64_t roundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

int architecture() { return int(setting("FAKE_CUDART_ARCH", 90)); }

size_t maxShared() {
  switch (architecture()) {
    case 80:
      return 163 << 10;
    case 90:
    case 100:
      return 227 << 10;
    default:
      return 99 << 10;
  }
}

void registerFunction(const void* binary, const void* hostFunction, const char* name) {
  functions()[hostFunction] = {name, binary};
  countKernel(name, 0);
}

Function* functionOf(const void* hostFunction) {
  const auto found = functions().find(hostFunction);
  if (found == functions().end()) return nullptr;
  Function& function = found->second;
  static auto& read = *new std::map<const void*, std::map<std::string, Kernel>>;
  if (!function.kernel) {
    auto kernels = read.find(function.binary);
    if (kernels == read.end())
      kernels = read.emplace(function.binary, kernelsOf(function.binary, architecture())).first;
    const auto kernel = kernels->second.find(function.name);
    if (kernel != kernels->second.end()) function.kernel = &kernel->second;
  }
  return &function;
}

cudaError_t checkLaunch(const Function& function, dim3 grid, dim3 block, size_t dynamicShared) {
  if (!function.kernel) return cudaErrorNoKernelImageForDevice;
  const Kernel& kernel = *function.kernel;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > uint64_t(kernel.maxThreads) || block.x > 1024 || block.y > 1024 || block.z > 64)
    return cudaErrorInvalidConfiguration;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (dynamicShared > function.dynamicShared || kernel.staticShared + dynamicShared > maxShared() ||
      (kernel.staticShared + dynamicShared > (48 << 10) && function.dynamicShared <= (48 << 10)))
    return cudaErrorInvalidValue;
  const uint64_t warps = roundUp((threads + kWarp - 1) / kWarp, kWarpUnit);
  if (warps * roundUp(uint64_t(kernel.registers) * kWarp, kRegisterUnit) > kRegisters)
    return cudaErrorLaunchOutOfResources;
  return cudaSuccess;
}

}  // namespace fake
