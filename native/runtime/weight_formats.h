// Weights on their way into a buffer and out of it: float32 on one side, a format of kernels/ops.h (Weights) on the
// other.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/ops.h"

namespace ddpm {

// Where a tensor lies in a buffer, and how.
struct Place {
  int64_t offset = 0;  // of the first number, in elements of 4 bytes
  int64_t length = 0;  // numbers
  DType format = DType::f32;
  // Of i8: numbers that have one factor, a divisor of the length, and where the factors lie, in elements.
  int64_t row = 1, scales = 0;
  std::string name;  // for messages

  int64_t bytes() const { return length * int64_t(sizeOf(format)); }
  int64_t rows() const { return format == DType::i8 ? length / row : 0; }
  // Pieces are of whole rows.
  int64_t unit() const { return format == DType::i8 ? row : 1; }
};

// n numbers of a place, whole rows of them, as the buffer holds them: rounded to nearest, ties to even. i8: a row's
// factor is its largest magnitude / 127. Infinities and NaN stay what they are in f16 and bf16.
// Throws unsupported for a finite number that the format has none for, and in i8 for one that is not finite.
void narrow(const Place& place, const float* numbers, int64_t n, void* held, float* scales);

// The way back, exact.
void widen(const Place& place, const void* held, const float* scales, int64_t n, float* numbers);

float halfToFloat(uint16_t half);

}  // namespace ddpm
