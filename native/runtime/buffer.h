// Device memory that JavaScript holds.
#pragma once
#include <memory>
#include <vector>

#include "native/runtime/device.h"
#include "native/runtime/weight_formats.h"

namespace ddpm {

class Buffer {
 public:
  // `elements` 4-byte numbers, zero. Throws invalid-argument, out-of-memory.
  static std::shared_ptr<Buffer> allocate(std::shared_ptr<Device> device, int64_t elements);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const std::shared_ptr<Device> device;
  const int64_t elements;
  char* const data;
  const uint64_t id;  // never used again

  // How often it was written: who keeps something derived from it (packed weights) sees that it is stale. On the
  // device's thread only.
  uint64_t version = 0;

  // On the device's thread; offsets and lengths in elements, checked by the caller.
  void copyIn(const void* host, int64_t offset, int64_t length);
  void copyOut(void* host, int64_t offset, int64_t length) const;
  void copyBytesIn(const void* host, int64_t byteOffset, int64_t bytes);
  // The numbers of a place, as float32.
  void readAt(const Place& place, float* numbers) const;
  // Of its bits, 64 bits that are the same where the numbers are, and hardly ever otherwise.
  uint64_t checksum() const;
  void copyFrom(const Buffer& source, int64_t sourceOffset, int64_t offset, int64_t length);

  // All zero.
  void clear();
  // this += source, of as many elements.
  void add(const Buffer& source);

  // Throws invalid-argument where [offset, offset + length) is not within the buffer.
  void checkRange(const char* where, double offset, double length) const;

 private:
  Tensor flat() const;
  Buffer(std::shared_ptr<Device> device, int64_t elements, void* data);
  void copyBytesOut(void* host, int64_t byteOffset, int64_t bytes) const;
};

}  // namespace ddpm
