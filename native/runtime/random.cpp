// Compiled without contraction of a * b + c, as kernels/philox.h asks for.
#include "native/runtime/random.h"

#include "kernels/philox.h"

namespace ddpm {

void fillNormal(const Stream& s, float* out, size_t n) {
  for (size_t i = 0; i < n; i += 4) {
    const Normal4 z = normal4(s.seedLow, s.seedHigh, uint32_t(i / 4), s.step, s.sample, s.purpose);
    for (size_t k = 0; k < 4 && i + k < n; ++k) out[i + k] = z.v[k];
  }
}

void fillWords(const Stream& s, uint32_t* out, size_t n) {
  for (size_t i = 0; i < n; i += 4) {
    const Philox4 r = philox4x32(s.seedLow, s.seedHigh, uint32_t(i / 4), s.step, s.sample, s.purpose);
    for (size_t k = 0; k < 4 && i + k < n; ++k) out[i + k] = r.v[k];
  }
}

}  // namespace ddpm
