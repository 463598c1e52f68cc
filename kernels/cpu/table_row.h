// The row of a table that a sample picks, clamped to the table (ops.h, Tables).
#pragma once
#include "kernels/cpu/device.h"

namespace ddpm::cpu::DDPM_ISA {

inline int64_t rowNumber(const Tensor& table, const Tensor& index, int64_t n) {
  const int64_t i = index.i32()[n * index.ld], last = table.n - 1;
  return i < 0 ? 0 : i < last ? i : last;
}
inline float* rowOf(const Tensor& table, const Tensor& index, int64_t n) {
  return table.f32() + rowNumber(table, index, n) * table.ld;
}

}  // namespace ddpm::cpu::DDPM_ISA
