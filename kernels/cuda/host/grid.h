// Kernels on the CPU: the words of the CUDA language that the kernels use, and the machine that executes a grid.
//
// Blocks run in turn and the threads of a block as fibers, each until it waits. A barrier is checked as it is passed:
// the threads that must meet there wait at one place in the source, and none has left. Their order is reversed from
// time to time, so that a result that depends on it shows. memory.h checks what the threads read and write.
//
// One grid at a time in the process: what runs is in plain global variables, and a lock keeps others waiting.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/host/fiber.h"
#include "kernels/cuda/kernel_name.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace ddpm::cuda::host {

using Where = std::source_location;

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

// A copy by cp.async that is under way: its bytes arrive when the thread waits for its group.
struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, valid;  // bytes from `valid` on are zero
  int group;
};

struct Thread {
  enum class State : uint8_t { ready, atWarpBarrier, atBlockBarrier, done };
  int number;
  uint3 index;
  State state;
  Where where;  // of the barrier it waits at
  Context context;
  std::vector<AsyncCopy> copies;
  int group;  // that cp.async belongs to until the next commit
};

struct Warp {
  static constexpr int kSlot = 64;  // bytes that a lane can hand to the others
  uint32_t arrived, mask;
  Where where;
  uint32_t round;  // collectives passed
  uint32_t epoch;  // __syncwarp passed; see memory.h
  alignas(16) std::byte slots[2][kWarp][kSlot];
};

// The thread that runs, its warp, and how many block barriers the process has passed (never 0 inside a kernel).
inline Thread* thread = nullptr;
inline Warp* warp = nullptr;
inline uint32_t epoch = 0;

// Ends the kernel: throws an error that names it, the block, the running thread, and `what`.
[[noreturn]] void fail(const std::string& what);

// What a recording keeps: work to be done again, and the memory that it was recorded with.
struct Recorded {
  std::vector<std::function<void()>> work;
  std::vector<std::pair<const void*, size_t>> memory;
  bool invalid = false;  // as a capture is after a call that it does not allow
};
// Of the thread that records; null otherwise.
inline thread_local Recorded* recorded = nullptr;

// Whether DDPM_HOST_REFUSES_RECORDING names this, for tests of what can't be recorded: a kernel (a part of its name
// does), or "begin", "end", "out of memory", "lost" of the calls of CudaDevice.
bool refusesRecording(const std::string& what);
// Keeps a kernel of that name for the recording.
void record(const std::string& kernel, std::function<void()> work);

// What the thread that lists launches (Backend::list) would have launched; null otherwise.
inline thread_local std::vector<Launch>* listed = nullptr;
void list(const std::string& kernel, dim3 grid, dim3 block, size_t dynamicShared);

// Runs `body` for every thread of the grid. Throws std::runtime_error as fail() does.
void runGrid(const std::string& kernel, dim3 grid, dim3 block, size_t dynamicShared, void (*body)(void*),
             void* argument);

void syncThreads(Where where);

// Meets the other lanes of `mask` at `where`, leaving `bytes` of its own; returns the slots of all lanes, which hold
// until the next collective. With `orders`, what lanes wrote to memory before is seen by the others after (__syncwarp).
const std::byte* meetWarp(uint32_t mask, const void* mine, size_t bytes, bool orders, Where where);

inline int laneNumber() { return thread->number % kWarp; }

template <class T>
T lanesValue(const std::byte* slots, int lane) {
  T value;
  std::memcpy(&value, slots + lane * Warp::kSlot, sizeof value);
  return value;
}

template <class T>
T shuffle(uint32_t mask, T value, int source, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  const std::byte* slots = meetWarp(mask, &value, sizeof value, false, where);
  if (!(mask >> source & 1)) fail("a shuffle reads lane " + std::to_string(source) + ", which is not in its mask");
  return lanesValue<T>(slots, source);
}

}  // namespace ddpm::cuda::host

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

inline void __syncthreads(ddpm::cuda::host::Where where = ddpm::cuda::host::Where::current()) {
  ddpm::cuda::host::syncThreads(where);
}
inline void __syncwarp(uint32_t mask = ~0u, ddpm::cuda::host::Where where = ddpm::cuda::host::Where::current()) {
  ddpm::cuda::host::meetWarp(mask, nullptr, 0, true, where);
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, ddpm::cuda::host::Where where = ddpm::cuda::host::Where::current()) {
  return ddpm::cuda::host::shuffle(mask, value, lane & 31, where);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits,
                  ddpm::cuda::host::Where where = ddpm::cuda::host::Where::current()) {
  return ddpm::cuda::host::shuffle(mask, value, ddpm::cuda::host::laneNumber() ^ bits, where);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate,
                              ddpm::cuda::host::Where where = ddpm::cuda::host::Where::current()) {
  const std::byte* slots = ddpm::cuda::host::meetWarp(mask, &predicate, sizeof predicate, false, where);
  uint32_t ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) && ddpm::cuda::host::lanesValue<int>(slots, lane)) ballot |= 1u << lane;
  return ballot;
}

inline int __popc(uint32_t x) { return std::popcount(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

namespace ddpm::cuda {

template <class Signature>
struct Launcher;
template <class... P>
struct Launcher<void (*)(P...)> {
  template <auto kernel>
  static void run(dim3 grid, dim3 block, size_t shared, P... parameters) {
    auto body = [&] { kernel(parameters...); };
    host::runGrid(
        kernelName<kernel>(), grid, block, shared, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body);
  }
};

// Runs the kernel over a grid, or records or lists that; an empty grid is no work. Waits for its end. `shared`: bytes
// of dynamic shared memory.
template <auto kernel, class... Args>
void launch(dim3 grid, dim3 block, size_t shared, Stream, const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (host::listed) return host::list(kernelName<kernel>(), grid, block, shared);
  const auto work = [=] { Launcher<decltype(kernel)>::template run<kernel>(grid, block, shared, args...); };
  if (host::recorded)
    host::record(kernelName<kernel>(), work);
  else
    work();
}

}  // namespace ddpm::cuda
