// The library's kernels as the runtime knows them: by the address of their host function, registered when the library
// is loaded; and whether a launch fits a multiprocessor.
#pragma once
#include <driver_types.h>
#include <vector_types.h>

#include "test/fake-cudart/cubin.h"

namespace fake {

// FAKE_CUDART_ARCH, default 90: what the devices are.
int architecture();
size_t maxShared();  // of a block, when asked for

struct Function {
  std::string name;
  const void* binary;
  const Kernel* kernel = nullptr;  // null: no code for this architecture
  size_t dynamicShared = 48 << 10;
  bool loaded = false;  // a kernel's code is loaded when it is first launched
};

void registerFunction(const void* binary, const void* hostFunction, const char* name);
// Null: not one of this library's.
Function* functionOf(const void* hostFunction);

// cudaSuccess when the kernel can run like that.
cudaError_t checkLaunch(const Function& function, dim3 grid, dim3 block, size_t dynamicShared);

}  // namespace fake
