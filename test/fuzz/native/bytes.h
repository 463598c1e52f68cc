// Decisions from a fuzzer's bytes; when they are used up, all are the first.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ddpm::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  // One of 0 ... n - 1.
  int below(int n) { return byte() % n; }
  template <class T, size_t n>
  const T& one(const T (&choices)[n]) {
    return choices[below(int(n))];
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace ddpm::fuzz
