#include "native/runtime/buffer.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace ddpm {
namespace {

constexpr int64_t kReadPiece = int64_t(1) << 18;  // numbers

uint64_t nextId() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

Buffer::Buffer(std::shared_ptr<Device> owner, int64_t count, void* memory)
    : device(std::move(owner)), elements(count), data(static_cast<char*>(memory)), id(nextId()) {}

Buffer::~Buffer() { device->release(data); }

std::shared_ptr<Buffer> Buffer::allocate(std::shared_ptr<Device> device, int64_t elements) {
  if (elements < 1 || elements > INT32_MAX) {
    throw Failure::argumentOf("allocate", "elements", "an integer from 1 to 2^31 - 1", std::to_string(elements));
  }
  void* memory = device->allocate(uint64_t(elements) * 4);
  std::shared_ptr<Buffer> buffer(new Buffer(device, elements, memory));
  device->submit([buffer] { buffer->clear(); });
  return buffer;
}

void Buffer::copyIn(const void* host, int64_t offset, int64_t length) { copyBytesIn(host, offset * 4, length * 4); }

void Buffer::copyBytesIn(const void* host, int64_t byteOffset, int64_t bytes) {
  Error error;
  ++version;
  if (!device->backend().copyIn(device->handle(), data + byteOffset, host, uint64_t(bytes), &error)) {
    throw toFailure(error);
  }
}

void Buffer::copyOut(void* host, int64_t offset, int64_t length) const { copyBytesOut(host, offset * 4, length * 4); }

void Buffer::copyBytesOut(void* host, int64_t byteOffset, int64_t bytes) const {
  Error error;
  if (!device->backend().copyOut(device->handle(), host, data + byteOffset, uint64_t(bytes), &error)) {
    throw toFailure(error);
  }
}

void Buffer::readAt(const Place& place, float* numbers) const {
  if (place.format == DType::f32) return copyOut(numbers, place.offset, place.length);
  const int64_t width = int64_t(sizeOf(place.format)), unit = place.unit();
  const int64_t most = std::min(std::max(kReadPiece / unit, int64_t(1)) * unit, place.length);
  std::vector<char> held(size_t(most * width));
  std::vector<float> scales(size_t(place.rows()));
  if (!scales.empty()) copyOut(scales.data(), place.scales, place.rows());
  for (int64_t first = 0; first < place.length; first += most) {
    const int64_t n = std::min(most, place.length - first);
    copyBytesOut(held.data(), place.offset * 4 + first * width, n * width);
    widen(place, held.data(), scales.data() + first / place.row, n, numbers + first);
  }
}

// Fowler, Noll and Vo's 1a on words in place of bytes, four sums side by side.
uint64_t Buffer::checksum() const {
  constexpr uint64_t kPrime = 0x100000001b3, kBasis = 0xcbf29ce484222325;
  std::vector<uint32_t> piece(size_t(std::min(kReadPiece, elements)));
  uint64_t sums[4] = {kBasis, kBasis + 1, kBasis + 2, kBasis + 3};
  for (int64_t first = 0; first < elements; first += kReadPiece) {
    const size_t n = size_t(std::min(kReadPiece, elements - first));
    copyOut(piece.data(), first, int64_t(n));
    for (size_t i = 0; i < n; i += 4) {
      for (size_t k = 0; k < 4 && i + k < n; ++k) sums[k] = (sums[k] ^ piece[i + k]) * kPrime;
    }
  }
  uint64_t sum = kBasis;
  for (const uint64_t each : sums) sum = (sum ^ each ^ each >> 32) * kPrime;
  return sum ^ sum >> 32;
}

void Buffer::copyFrom(const Buffer& source, int64_t sourceOffset, int64_t offset, int64_t length) {
  Error error;
  ++version;
  if (!device->backend().copy(device->handle(), data + offset * 4, source.data + sourceOffset * 4, uint64_t(length) * 4,
                              &error)) {
    throw toFailure(error);
  }
}

Tensor Buffer::flat() const { return {data, 1, 1, 1, int32_t(elements), int32_t(elements), DType::f32}; }

void Buffer::clear() {
  Error error;
  ++version;
  const Fill op = {flat(), 0.0f};
  if (!device->backend().kFill.run(device->handle(), op, nullptr, &error)) throw toFailure(error);
}

void Buffer::add(const Buffer& source) {
  Error error;
  ++version;
  const Add op = {flat(), source.flat(), flat()};
  if (!device->backend().kAdd.run(device->handle(), op, nullptr, &error)) throw toFailure(error);
}

void Buffer::checkRange(const char* where, double offset, double length) const {
  const bool whole = offset == std::trunc(offset) && length == std::trunc(length);  // not through integers, for NaN
  if (!whole || !(offset >= 0) || !(length >= 0) || !(offset + length <= double(elements))) {
    throw Failure::argumentOf(where, "offset", "a range within " + std::to_string(elements) + " elements",
                              std::to_string(offset) + " + " + std::to_string(length));
  }
}

}  // namespace ddpm
