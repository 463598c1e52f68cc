// What the stand-in must not forgive, a case each: misused CASE ends with the violation, or prints the status that the
// call gave.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Device {
  cudaStream_t a, b;
  cudaMemPool_t pool;
  Device() {
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaMemPoolProps properties = {};
    properties.location.id = 0;
    cudaMemPoolCreate(&pool, &properties);
    uint64_t keep = UINT64_MAX;
    cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
  }
  char* allocate(size_t bytes, cudaStream_t stream) {
    void* memory = nullptr;
    return cudaMallocFromPoolAsync(&memory, bytes, pool, stream) == cudaSuccess ? static_cast<char*>(memory) : nullptr;
  }
  cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
};

using Case = cudaError_t (*)(Device&);

const std::map<std::string, Case> cases = {
    {"used after it was freed",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaFreeAsync(memory, d.a);
       return d.copy(memory, memory + 512, 512, d.a);
     }},
    {"used before it is there",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       return d.copy(memory, memory + 512, 512, d.b);
     }},
    {"used once it is there",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaStreamSynchronize(d.a);
       return d.copy(memory, memory + 512, 512, d.b);
     }},
    {"freed while it is used",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaStreamSynchronize(d.a);
       d.copy(memory, memory + 512, 512, d.b);
       return cudaFreeAsync(memory, d.a);
     }},
    {"freed twice",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaFreeAsync(memory, d.a);
       return cudaFreeAsync(memory, d.a);
     }},
    {"too long a copy",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       return d.copy(memory, memory + 512, 1024, d.a);
     }},
    {"another device's stream",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaSetDevice(1);
       return d.copy(memory, memory + 512, 512, d.a);
     }},
    {"another device's memory",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaStreamSynchronize(d.a);
       cudaSetDevice(1);
       cudaStream_t stream;
       cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
       return d.copy(memory, memory + 512, 512, stream);
     }},
    {"a recording of memory that was freed",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaStreamSynchronize(d.a);
       cudaStreamBeginCapture(d.b, cudaStreamCaptureModeThreadLocal);
       d.copy(memory, memory + 512, 512, d.b);
       cudaGraph_t graph;
       cudaStreamEndCapture(d.b, &graph);
       cudaGraphExec_t executable;
       cudaGraphInstantiate(&executable, graph, 0);
       cudaFreeAsync(memory, d.a);
       return cudaGraphLaunch(executable, d.a);
     }},
    {"allocated while recording",
     [](Device& d) {
       cudaStreamBeginCapture(d.a, cudaStreamCaptureModeThreadLocal);
       void* memory;
       return cudaMalloc(&memory, 4);
     }},
    {"allocated by another thread while recording",
     [](Device& d) {
       cudaStreamBeginCapture(d.a, cudaStreamCaptureModeThreadLocal);
       cudaError_t status;
       std::thread([&] {
         void* memory;
         status = cudaMalloc(&memory, 4);
       }).join();
       return status;
     }},
    {"allocated by another thread while all is recorded",
     [](Device& d) {
       cudaStreamBeginCapture(d.a, cudaStreamCaptureModeGlobal);
       std::thread([&] {
         void* memory;
         cudaMalloc(&memory, 4);
       }).join();
       cudaGraph_t graph;
       return cudaStreamEndCapture(d.a, &graph);
     }},
    {"waited for while recording",
     [](Device& d) {
       cudaStreamBeginCapture(d.a, cudaStreamCaptureModeThreadLocal);
       cudaStreamSynchronize(d.a);
       cudaGraph_t graph;
       return cudaStreamEndCapture(d.a, &graph);
     }},
    {"a source that changes",
     [](Device& d) {
       char* memory = d.allocate(4, d.a);
       char source[] = "old", result[4] = "";
       cudaMemcpyAsync(memory, source, 4, cudaMemcpyHostToDevice, d.a);
       std::strcpy(source, "new");
       cudaMemcpyAsync(result, memory, 4, cudaMemcpyDeviceToHost, d.a);
       cudaStreamSynchronize(d.a);
       std::printf("%s ", result);
       return cudaSuccess;
     }},
    {"more than there is",
     [](Device& d) { return d.allocate(size_t(1) << 40, d.a) ? cudaSuccess : cudaGetLastError(); }},
    {"the pool goes first",
     [](Device& d) {
       char* memory = d.allocate(1024, d.a);
       cudaMemPoolDestroy(d.pool);
       return d.copy(memory, memory + 512, 512, d.a);
     }},
};

}  // namespace

int main(int, char** arguments) {
  const auto found = cases.find(arguments[1]);
  if (found == cases.end()) return 2;
  Device device;
  std::printf("%d\n", int(found->second(device)));
}
