// A loop of fused multiply-adds that needs nothing but registers; see peak.h.
#include "kernels/cpu/simd.h"

namespace ddpm::cpu::DDPM_ISA {

double fmaLoop(int64_t count) {
  constexpr int kChains = 12;  // more than latency times throughput of any core there is, and fits 16 registers
  volatile float half = 0.5f, one = 1.0f;
  const vf a = broadcast(half), b = broadcast(one);
  vf acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = broadcast(float(i));
  for (int64_t n = 0; n < count; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = acc[i] * a + b;
  }
  vf total = zero();
  for (int i = 0; i < kChains; ++i) total = total + acc[i];
  volatile float keep = sum(total);
  (void)keep;
  return 2.0 * kChains * kWidth;
}

}  // namespace ddpm::cpu::DDPM_ISA
