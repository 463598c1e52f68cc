// What a grid asks of memory, counted where DDPM_HOST_COUNTS names a file, to which a line of JSON is appended a grid.
//
// A request is what the lanes of a warp reach at one place in the code, each for the same time, at most 16 bytes each.
// In global memory it touches sectors of 32 bytes, and at least as many as its bytes fill. In shared memory it takes
// wavefronts: a bank gives one word of 4 bytes in each, lanes with 8 bytes go in halves of a warp, lanes with 16 in
// quarters; at least one a part. Not modelled: caches.
#pragma once
#include <cstddef>
#include <string>

#include "kernels/cuda/host/grid.h"

namespace ddpm::cuda::host {

enum class Space : uint8_t { global, stored, shared };  // stored: global too, by store() of vec.h's vectors

inline bool counting = false;  // the grid that runs

// The running thread reaches `bytes` at `address`; `place` is where in the code, the first of an address a request.
void countAt(const void* place, Space space, const void* address, size_t bytes);

// The same, where it is called from. Not inlined, while what calls it is wherever code is optimised: then every place
// in a kernel has an address of its own.
[[gnu::noinline]] void countHere(Space space, const void* address, size_t bytes);

inline void count(Space space, const void* address, size_t bytes) {
  if (counting) countHere(space, address, bytes);
}

// Around a grid and after each of its blocks.
void beginCounts();
void endBlockCounts(int threads);
void endCounts(const std::string& kernel, dim3 grid, dim3 block);

}  // namespace ddpm::cuda::host
