// Device memory: every allocation, the stream in whose order it was made or freed, and who uses it. What would be a
// race on a GPU, or a use of what is not there, is a violation.
#pragma once
#include <cstddef>
#include <cstdint>

#include "test/fake-cudart/stream.h"

namespace fake {

struct Pool {
  int device;
  bool keeps = false;  // what is freed stays (a release threshold)
  size_t used = 0, reserved = 0;
};

// Null where there is no room. Memory of a pool may be used in the order of `stream`, and in that of others once that
// stream was waited for; without a pool at once.
void* allocate(int device, size_t bytes, Pool* pool, Stream* stream);
// With a stream: in its order. Without: at once; nothing may be using it.
void release(void* memory, Stream* stream);
// Gives back what a pool keeps and nothing can still be using.
void trim(Pool& pool);
size_t freeBytes(int device);
size_t totalBytes();

// Whether a word is an address where device memory is, or was: most likely so (memory.cpp says when it is not).
bool isDeviceAddress(const void* address);
// That `bytes` from the address are allocated, and may be used by what is put on the stream now; and that they are.
void use(const void* address, size_t bytes, Stream& stream, const std::string& by);

}  // namespace fake
