// The library of collectives by MPI behind a network that is as slow as one likes, and takes no processor's time: an
// operation is done when MPI has done it and what this rank sends, or gets, would have passed, one operation after the
// other. In the place of ddpm_mpi.so. DDPM_SLOW_MPI: the real one. DDPM_SLOW_MBITS: millions of bits a second, each
// way.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "native/collectives/collectives.h"

namespace {

using namespace ddpm;
using Clock = std::chrono::steady_clock;

const Collectives* real = nullptr;
WorldInfo world;
Clock::time_point passed;  // when all so far has passed

struct Slow {
  Operation* operation;
  Clock::time_point due;
  bool isDone;
};

Operation* begin(Operation* operation, size_t sent, size_t received) {
  if (!operation) return nullptr;
  static const double bytesPerSecond = std::atof(std::getenv("DDPM_SLOW_MBITS")) * 1e6 / 8;
  const std::chrono::duration<double> takes(double(std::max(sent, received)) / bytesPerSecond);
  passed = std::max(passed, Clock::now()) + std::chrono::duration_cast<Clock::duration>(takes);
  return reinterpret_cast<Operation*>(new Slow{operation, passed, false});
}

size_t bytesOf(const Part* parts) {
  size_t sum = 0;
  for (int32_t r = 0; r < world.size; ++r) {
    if (r != world.rank) sum += parts[r].bytes;
  }
  return sum;
}

WorldHandle* open(Error* error) {
  WorldHandle* handle = real->open(error);
  if (handle) real->info(handle, &world);
  return handle;
}

Operation* barrier(WorldHandle* handle, Error* error) { return begin(real->barrier(handle, error), 0, 0); }

Operation* broadcast(WorldHandle* handle, void* data, size_t bytes, int32_t root, Error* error) {
  return begin(real->broadcast(handle, data, bytes, root, error), bytes, bytes);
}

Operation* exchange(WorldHandle* handle, const void* from, const Part* sent, void* to, const Part* received,
                    Error* error) {
  return begin(real->exchange(handle, from, sent, to, received, error), bytesOf(sent), bytesOf(received));
}

Operation* gather(WorldHandle* handle, void* data, const Part* parts, Error* error) {
  const size_t own = parts[world.rank].bytes * size_t(world.size - 1);
  return begin(real->gather(handle, data, parts, error), own, bytesOf(parts));
}

bool test(WorldHandle* handle, Operation* operation, bool* done, Error* error) {
  auto* const slow = reinterpret_cast<Slow*>(operation);
  if (!slow->isDone && !real->test(handle, slow->operation, &slow->isDone, error)) return false;
  *done = slow->isDone && Clock::now() >= slow->due;
  if (*done) delete slow;
  return true;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const Collectives* ddpm_collectives(int32_t abi) {
  void* const library = dlopen(std::getenv("DDPM_SLOW_MPI"), RTLD_NOW | RTLD_LOCAL);
  const auto function = library ? reinterpret_cast<DdpmCollectivesFn>(dlsym(library, "ddpm_collectives")) : nullptr;
  real = function ? function(abi) : nullptr;
  if (!real) return nullptr;
  static Collectives table = *real;
  table.open = open;
  table.barrier = barrier;
  table.broadcast = broadcast;
  table.exchange = exchange;
  table.gather = gather;
  table.test = test;
  return &table;
}
