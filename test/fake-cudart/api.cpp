// A stand-in for the CUDA runtime, linked into a copy of the CUDA library in its place: the functions of its documented
// interface that the library calls. Kernels compute nothing; all else is done as the documentation has it, and checked
// more strictly than a GPU would. See faults.h for errors on demand, report.h for what is counted.
//   FAKE_CUDART_DEVICES, default 1; FAKE_CUDART_ARCH, 90; FAKE_CUDART_MEMORY, bytes of each; FAKE_CUDART_POOLS=0: none
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <mutex>

#include "test/fake-cudart/faults.h"
#include "test/fake-cudart/kernels.h"
#include "test/fake-cudart/memory.h"
#include "test/fake-cudart/report.h"

namespace {

using namespace fake;

std::recursive_mutex lock;                    // of all that follows
thread_local int current = 0;                 // the thread's device
thread_local cudaError_t last = cudaSuccess;  // its last error

int deviceCount() { return int(setting("FAKE_CUDART_DEVICES", 1)); }

Stream* streamOf(cudaStream_t stream) {
  const std::lock_guard guard(lock);
  auto* ours = reinterpret_cast<Stream*>(stream);
  if (!isStream(ours)) violation("a stream that is not there is used, or the default stream, which is nobody's here");
  return ours;
}
Event* eventOf(cudaEvent_t event) { return reinterpret_cast<Event*>(event); }
Graph* graphOf(void* graph) { return static_cast<Graph*>(graph); }
Pool* poolOf(cudaMemPool_t pool) { return reinterpret_cast<Pool*>(pool); }

// A call of the interface: one at a time, faults first.
template <class F>
cudaError_t call(const char* name, F f, cudaError_t (*fault)(const char*, int) = faultOf) {
  const std::lock_guard guard(lock);
  cudaError_t status = fault(name, current);
  if (status == cudaSuccess) status = f();
  if (status != cudaSuccess) last = status;
  return status;
}

// One that no device has to work for, nor minds that one is lost.
template <class F>
cudaError_t question(const char* name, F f) {
  return call(name, f, ownFaultOf);
}

// One that may not be made while something is captured.
template <class F>
cudaError_t unsafe(const char* name, F f) {
  return call(name, [&] {
    const cudaError_t status = unsafeCall();
    return status == cudaSuccess ? f() : status;
  });
}

// Puts it on the stream, which has to be the thread's device's.
cudaError_t issueOn(Stream& stream, const Work& work) {
  if (stream.device != current) return cudaErrorInvalidResourceHandle;
  return issue(stream, work);
}

cudaError_t launchKernel(Function& function, dim3 grid, dim3 block, void** arguments, size_t shared, Stream& stream) {
  if (const cudaError_t status = checkLaunch(function, grid, block, shared); status != cudaSuccess) return status;
  if (stream.capture && !function.loaded) return waitCall(stream);  // loading may have to wait for the device
  function.loaded = true;
  Work work{function.name, {}, nullptr, true};
  const auto& parameters = function.kernel->parameters;
  for (size_t i = 0; i < parameters.size(); ++i)
    for (size_t at = 0; at + sizeof(void*) <= parameters[i].bytes; at += sizeof(void*)) {
      const void* word;
      std::memcpy(&word, static_cast<const char*>(arguments[i]) + at, sizeof word);
      if (isDeviceAddress(word)) work.operands.push_back({word, 1});
    }
  count("launch");
  return issueOn(stream, work);
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local Configuration configuration;

}  // namespace

extern "C" {

// ---------------------------------------------------------------------------------------------------------------------
// What compiled code calls

void** __cudaRegisterFatBinary(void* binary) { return new void*(binary); }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** binary, const char* hostFunction, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  const std::lock_guard guard(lock);
  registerFunction(*binary, hostFunction, name);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* hostFunction) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(hostFunction));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* hostFunction, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  const bool captured = streamOf(stream)->capture;
  const cudaError_t status = call(captured ? "captured launch" : "launch", [&] {
    Function* function = functionOf(hostFunction);
    return function ? launchKernel(*function, grid, block, arguments, shared, *streamOf(stream))
                    : cudaErrorInvalidDeviceFunction;
  });
  if (captured && status != cudaSuccess) waitCall(*streamOf(stream));
  return status;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* hostFunction) {
  return call("cudaFuncGetAttributes", [&] {
    const Function* function = functionOf(hostFunction);
    if (!function) return cudaErrorInvalidDeviceFunction;
    if (!function->kernel) return cudaErrorNoKernelImageForDevice;
    *attributes = {};
    attributes->numRegs = function->kernel->registers;
    attributes->sharedSizeBytes = function->kernel->staticShared;
    attributes->maxThreadsPerBlock = function->kernel->maxThreads;
    return cudaSuccess;
  });
}
cudaError_t cudaFuncSetAttribute(const void* hostFunction, cudaFuncAttribute attribute, int value) {
  return call("cudaFuncSetAttribute", [&] {
    Function* function = functionOf(hostFunction);
    if (!function || !function->kernel) return cudaErrorInvalidDeviceFunction;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        size_t(value) + function->kernel->staticShared > maxShared())
      return cudaErrorInvalidValue;
    function->dynamicShared = size_t(value);
    return cudaSuccess;
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Errors and devices

cudaError_t cudaGetLastError() {
  const cudaError_t status = last;
  last = cudaSuccess;
  return status;
}
const char* cudaGetErrorName(cudaError_t status) {
  thread_local char name[32];
  std::snprintf(name, sizeof name, "cudaError%d", int(status));
  return name;
}
const char* cudaGetErrorString(cudaError_t) { return "as the stand-in was asked for"; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  return question("cudaGetDeviceCount", [&] {
    *count = deviceCount();
    return cudaSuccess;
  });
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= deviceCount()) return last = cudaErrorInvalidDevice;
  current = device;
  return call("cudaSetDevice", [] { return cudaSuccess; });
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return question("cudaGetDeviceProperties", [&] {
    if (device < 0 || device >= deviceCount()) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "stand-in for a GPU, number %d", device);
    properties->major = architecture() / 10;
    properties->minor = architecture() % 10;
    properties->multiProcessorCount = 132;
    properties->totalGlobalMem = totalBytes();
    properties->sharedMemPerBlockOptin = maxShared();
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  return question("cudaDeviceGetAttribute", [&] {
    switch (attribute) {
      case cudaDevAttrMultiProcessorCount:
        *value = 132;
        return cudaSuccess;
      case cudaDevAttrMemoryPoolsSupported:
        *value = setting("FAKE_CUDART_POOLS", 1) ? 1 : 0;
        return cudaSuccess;
      default:
        violation("the stand-in does not know device attribute " + std::to_string(int(attribute)));
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return unsafe("cudaMalloc", [&] {
    *memory = allocate(current, bytes, nullptr, nullptr);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}
cudaError_t cudaFree(void* memory) {
  return unsafe("cudaFree", [&] {
    waitForDevice(current);
    if (memory) release(memory, nullptr);
    return cudaSuccess;
  });
}
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return call("cudaMallocFromPoolAsync", [&] {
    if (streamOf(stream)->capture) violation("memory is allocated in a captured stream");
    if (poolOf(pool)->device != streamOf(stream)->device) return cudaErrorInvalidValue;
    *memory = allocate(poolOf(pool)->device, bytes, poolOf(pool), streamOf(stream));
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return call("cudaFreeAsync", [&] {
    if (streamOf(stream)->capture) violation("memory is freed in a captured stream");
    release(memory, streamOf(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  return call("cudaMemGetInfo", [&] {
    *available = freeBytes(current);
    *total = totalBytes();
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  return call("cudaMemPoolCreate", [&] {
    *pool = reinterpret_cast<cudaMemPool_t>(new Pool{properties->location.id});
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  return call("cudaMemPoolDestroy", [&] {
    poolOf(pool)->keeps = false;  // what is used of it stays until it is freed
    trim(*poolOf(pool));
    if (poolOf(pool)->reserved == 0) delete poolOf(pool);
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  return call("cudaMemPoolTrimTo", [&] {
    count("trim");
    trim(*poolOf(pool));
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return call("cudaMemPoolSetAttribute", [&] {
    if (attribute != cudaMemPoolAttrReleaseThreshold) return cudaErrorInvalidValue;
    poolOf(pool)->keeps = *static_cast<uint64_t*>(value) > 0;
    return cudaSuccess;
  });
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return call("cudaMemPoolGetAttribute", [&] {
    if (attribute != cudaMemPoolAttrReservedMemCurrent && attribute != cudaMemPoolAttrUsedMemCurrent)
      return cudaErrorInvalidValue;
    *static_cast<uint64_t*>(value) =
        attribute == cudaMemPoolAttrReservedMemCurrent ? poolOf(pool)->reserved : poolOf(pool)->used;
    return cudaSuccess;
  });
}

// Of pageable memory, too, the source is read, and the target written, when the stream gets there.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&] {
    Work work{"a copy", {}, [=] { std::memmove(to, from, bytes); }, false};
    for (const void* side : {static_cast<const void*>(to), from})
      if (isDeviceAddress(side)) work.operands.push_back({side, bytes});
    if (work.operands.size() != (kind == cudaMemcpyDeviceToDevice ? 2 : 1)) violation("a copy is of another kind");
    count("copy");
    return issueOn(*streamOf(stream), work);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams, events, graphs

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return call("cudaStreamCreateWithFlags", [&] {
    *stream = reinterpret_cast<cudaStream_t>(createStream(current));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", [&] {
    destroyStream(streamOf(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call("cudaStreamSynchronize", [&] {
    const cudaError_t status = waitCall(*streamOf(stream));
    if (status == cudaSuccess) wait(*streamOf(stream), streamOf(stream)->issued);
    return status;
  });
}

// What waits is done one operation after the other, each when somebody asks.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call("cudaStreamQuery", [&] {
    Stream& ours = *streamOf(stream);
    const cudaError_t status = waitCall(ours);
    if (status != cudaSuccess || ours.done == ours.issued) return status;
    wait(ours, ours.done + 1);
    return cudaErrorNotReady;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return call("cudaEventCreate", [&] {
    *event = reinterpret_cast<cudaEvent_t>(new Event{current});
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete eventOf(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&] {
    if (eventOf(event)->device != streamOf(stream)->device) return cudaErrorInvalidResourceHandle;
    record(*eventOf(event), *streamOf(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call("cudaStreamWaitEvent", [&] {
    count("wait for an event");
    return waitFor(*streamOf(stream), *eventOf(event));
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call("cudaEventSynchronize", [&] {
    if (eventOf(event)->capture) violation("an event of a capture is waited for by the host");
    if (eventOf(event)->stream) wait(*eventOf(event)->stream, eventOf(event)->number);
    return cudaSuccess;
  });
}
// Of the operations between them, a microsecond each.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call("cudaEventElapsedTime", [&] {
    if (eventOf(end)->stream->done < eventOf(end)->number) return cudaErrorNotReady;
    *milliseconds = float(eventOf(end)->number - eventOf(begin)->number) / 1000;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call("cudaStreamBeginCapture", [&] { return beginCapture(*streamOf(stream), mode); });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::lock_guard guard(lock);
  cudaError_t status = cudaSuccess;  // even where the call fails, the capture is over
  Graph* captured = endCapture(*streamOf(stream), &status);
  status = call("cudaStreamEndCapture", [&] { return status; });
  if (status == cudaSuccess)
    *graph = reinterpret_cast<cudaGraph_t>(captured);
  else
    delete captured;
  return status;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call("cudaGraphInstantiate", [&] {
    *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*graphOf(graph)));
    return cudaSuccess;
  });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return call("cudaGraphLaunch", [&] {
    count("graph launch");
    return launch(*graphOf(executable), *streamOf(stream));
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graphOf(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete graphOf(executable);
  return cudaSuccess;
}

// For stand-ins of other libraries (test/fake-nccl), which put work on a stream too: it reads and writes the operands.
__attribute__((visibility("default"))) int fake_cudart_issue(void* stream, const char* name,
                                                             const void* const* operands, const size_t* bytes,
                                                             int count, void (*run)(void*), void* argument) {
  return call(name, [&] {
    Work work{name, {}, [=] { run(argument); }, false};
    for (int i = 0; i < count; ++i) work.operands.push_back({operands[i], bytes[i]});
    fake::count(name);
    return issueOn(*streamOf(static_cast<cudaStream_t>(stream)), work);
  });
}
}
