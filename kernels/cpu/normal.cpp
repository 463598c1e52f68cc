// A file of its own, because it is compiled without contraction (CMakeLists.txt): a fused multiply-add that philox.h
// did not ask for would change the bits.
#include "kernels/cpu/normal.h"

namespace ddpm::cpu::DDPM_ISA {

void fillNormal(const uint32_t* seed, Purpose purpose, uint32_t sample, uint32_t step, int64_t begin, int64_t count,
                float* y) {
  for (int64_t i = 0; i < count; i += 4) {
    const Normal4 r = normal4(seed[0], seed[1], uint32_t((begin + i) / 4), step, sample, uint32_t(purpose));
    const int64_t n = count - i < 4 ? count - i : 4;
    for (int64_t j = 0; j < n; ++j) y[i + j] = r.v[j];
  }
}

}  // namespace ddpm::cpu::DDPM_ISA
