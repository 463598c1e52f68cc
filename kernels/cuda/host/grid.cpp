#include "kernels/cuda/host/grid.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "kernels/cuda/host/counts.h"
#include "kernels/cuda/host/memory.h"

namespace ddpm::cuda::host {
namespace {

constexpr size_t kStackBytes = 64 << 10;
// What every GPU since compute capability 8.0 grants a block (8.6, 8.9 and 12.0 grant the least).
constexpr size_t kMaxSharedBytes = 99 << 10;

std::mutex lock;
std::string kernelInRun;
std::vector<Thread> threads;
Warp warps[kMaxThreads / kWarp];
Context scheduler;
void (*body)(void*);
void* argument;
std::string failure;  // what a thread threw

std::string text(uint3 i) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "(%u, %u, %u)", i.x, i.y, i.z);
  return buffer;
}

std::string text(Where where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

std::string describe(const Thread& t) {
  switch (t.state) {
    case Thread::State::done:
      return "thread " + text(t.index) + " has left the kernel";
    case Thread::State::atBlockBarrier:
      return "thread " + text(t.index) + " waits for the block at " + text(t.where);
    case Thread::State::atWarpBarrier:
      return "thread " + text(t.index) + " waits for its warp at " + text(t.where);
    default:
      return "thread " + text(t.index) + " runs";
  }
}

bool samePlace(Where a, Where b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

[[noreturn]] void failBlock(const std::string& what) {
  throw std::runtime_error("kernel " + kernelInRun + ", block " + text(blockIdx) + ": " + what);
}

// The first thing that a fiber runs.
DDPM_NEVER_LEFT void enterThread() {
  try {
    body(argument);
    for (const AsyncCopy& copy : thread->copies)
      if (copy.valid) fail("leaves the kernel with a cp.async that was not waited for");
  } catch (const std::exception& e) {
    failure = e.what();
  }
  thread->state = Thread::State::done;
  leaveContext(scheduler);
}

void wait(Thread::State state, Where where) {
  thread->state = state;
  thread->where = where;
  switchContext(thread->context, scheduler);
}

void resume(Thread& t) {
  thread = &t;
  warp = &warps[t.number / kWarp];
  threadIdx = t.index;
  switchContext(scheduler, t.context);
  if (!failure.empty()) throw std::runtime_error(failure);
}

// Whether threads run from the last to the first until the next barrier: a coin that falls the same way in every run.
bool reversed() { return (epoch * 0x9E3779B9u) >> 31; }

// Runs the threads of a warp until each has left or waits for the block.
void runWarp(int first, int count) {
  for (bool progress = true; progress;) {
    progress = false;
    for (int i = 0; i < count; ++i) {
      Thread& t = threads[size_t(first + (reversed() ? count - 1 - i : i))];
      if (t.state != Thread::State::ready) continue;
      resume(t);
      progress = true;
    }
  }
  for (int i = 0; i < count; ++i) {
    const Thread& waiting = threads[size_t(first + i)];
    if (waiting.state != Thread::State::atWarpBarrier) continue;
    const uint32_t missing = warps[first / kWarp].mask & ~warps[first / kWarp].arrived;
    const int lane = std::countr_zero(missing);
    failBlock("divergent warp: " + describe(waiting) + ", but " +
              (lane < count ? describe(threads[size_t(first + lane)])
                            : "its mask names lane " + std::to_string(lane) + ", which the block does not have"));
  }
}

void runBlock(int count) {
  for (int i = 0; i < count; ++i) {
    Thread& t = threads[size_t(i)];
    t.state = Thread::State::ready;
    t.copies.clear();
    t.group = 0;
  }
  for (int w = 0; w * kWarp < count; ++w) warps[w].arrived = warps[w].epoch = warps[w].round = 0;
  beginSharedMemory(++epoch);

  const int warpCount = (count + kWarp - 1) / kWarp;
  for (;;) {
    for (int i = 0; i < warpCount; ++i) {
      const int w = reversed() ? warpCount - 1 - i : i;
      runWarp(w * kWarp, std::min(kWarp, count - w * kWarp));
    }
    const Thread& one = threads[0];
    for (int i = 1; i < count; ++i) {
      const Thread& other = threads[size_t(i)];
      if (other.state != one.state ||
          (one.state == Thread::State::atBlockBarrier && !samePlace(one.where, other.where)))
        failBlock("divergent barrier: " + describe(one) + ", but " + describe(other));
    }
    if (one.state == Thread::State::done) return;
    for (int i = 0; i < count; ++i) threads[size_t(i)].state = Thread::State::ready;
    ++epoch;
  }
}

void checkConfiguration(dim3 grid, dim3 block, size_t dynamicShared) {
  // For tests of what comes after an error: every kernel fails while it is set.
  if (std::getenv("DDPM_HOST_FAILS")) throw std::runtime_error("kernel " + kernelInRun + ": DDPM_HOST_FAILS is set");
  const uint64_t count = uint64_t(block.x) * block.y * block.z;
  if (count == 0 || count > kMaxThreads || block.z > 64)
    throw std::runtime_error("kernel " + kernelInRun + ": a block of " + std::to_string(count) + " threads");
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7FFFFFFF)
    throw std::runtime_error("kernel " + kernelInRun + ": a grid of " + text(uint3{grid.x, grid.y, grid.z}) +
                             " blocks");
  if (dynamicShared > kMaxSharedBytes)
    throw std::runtime_error("kernel " + kernelInRun + ": " + std::to_string(dynamicShared) +
                             " bytes of shared memory");
}

}  // namespace

void fail(const std::string& what) { failBlock("thread " + text(thread->index) + " " + what); }

void syncThreads(Where where) { wait(Thread::State::atBlockBarrier, where); }

const std::byte* meetWarp(uint32_t mask, const void* mine, size_t bytes, bool orders, Where where) {
  Warp& w = *warp;
  const int lane = laneNumber();
  if (!(mask >> lane & 1)) fail("is not in the mask of its own warp collective at " + text(where));
  if (w.arrived == 0) {
    w.mask = mask;
    w.where = where;
  } else if (w.mask != mask || !samePlace(w.where, where)) {
    fail("meets its warp at " + text(where) + ", but other lanes do at " + text(w.where) + " or with another mask");
  }
  const uint32_t slot = w.round & 1;  // a lane may reach the next collective before the others have read this one
  if (bytes) std::memcpy(w.slots[slot][lane], mine, bytes);
  w.arrived |= 1u << lane;
  if (w.arrived == mask) {
    const int first = thread->number - lane;
    for (int i = 0; i < kWarp; ++i)
      if (mask >> i & 1) threads[size_t(first + i)].state = Thread::State::ready;
    w.arrived = 0;
    ++w.round;
    if (orders) ++w.epoch;
  } else {
    wait(Thread::State::atWarpBarrier, where);
  }
  return w.slots[slot][0];
}

void runGrid(const std::string& kernel, dim3 grid, dim3 block, size_t dynamicShared, void (*f)(void*), void* a) {
  static FiberStacks& stacks = *new FiberStacks(kMaxThreads, kStackBytes);  // devices outlive static objects
  const std::lock_guard guard(lock);
  const SanitizedGrid sanitized;
  kernelInRun = kernel;
  if (std::getenv("DDPM_HOST_LAUNCHES"))
    std::fprintf(stderr, "launch %s, grid %ux%ux%u, block %ux%ux%u\n", kernel.c_str(), grid.x, grid.y, grid.z, block.x,
                 block.y, block.z);
  checkConfiguration(grid, block, dynamicShared);
  body = f;
  argument = a;
  gridDim = grid;
  blockDim = block;
  failure.clear();
  const int count = int(block.x * block.y * block.z);
  threads.resize(size_t(count));
  configureSharedMemory(dynamicShared, kMaxSharedBytes);
  beginCounts();
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        for (int i = 0; i < count; ++i) {
          Thread& t = threads[size_t(i)];
          t.number = i;
          t.index = {unsigned(i) % block.x, unsigned(i) / block.x % block.y, unsigned(i) / (block.x * block.y)};
          t.context = makeContext(stacks, i, enterThread);
        }
        runBlock(count);
        endBlockCounts(count);
      }
  endCounts(kernel, grid, block);
}

}  // namespace ddpm::cuda::host
