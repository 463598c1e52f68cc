// The row of a table that a sample picks, clamped to the table (ops.h, Tables).
#pragma once
#include "kernels/cpu/device.h"

namespace ddpm::cpu::DDPM_ISA {

inline float* rowOf(const Tensor& table, const Tensor& index, int64_t n) {
  const int64_t i = index.i32()[n * index.ld], last = table.n - 1;
  return table.f32() + (i < 0 ? 0 : i < last ? i : last) * table.ld;
}

}  // namespace ddpm::cpu::DDPM_ISA
