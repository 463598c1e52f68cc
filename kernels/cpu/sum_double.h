// Long sums in double.
#pragma once
#include "kernels/cpu/simd.h"

namespace ddpm::cpu::DDPM_ISA {

// sum_i f(i) over [0, count), f(i) a double. Always in the same order, whatever the instruction set: sixteen sums side
// by side, then one after the other.
template <class F>
DDPM_INLINE double sumDouble(int64_t count, const F& f) {
  double lanes[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int j = 0; j < 16; ++j) lanes[j] += f(i + j);
  for (int j = 0; i + j < count; ++j) lanes[j] += f(i + j);
  double sum = 0;
  for (int j = 0; j < 16; ++j) sum += lanes[j];
  return sum;
}

}  // namespace ddpm::cpu::DDPM_ISA
