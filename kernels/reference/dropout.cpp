// Dropout (Srivastava et al. 2014). Element e of the dense NHWC order is kept where word e%4 of the Philox block
// {e/4, step, layer, dropout} maps to a uniform number of at least p.
#include "kernels/philox.h"
#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const Dropout& op) {
  const uint32_t* rng = static_cast<const uint32_t*>(op.rng.data);
  const float scale = 1 / (1 - op.p);
  forEach(op.y, [&](int64_t row, int c) {
    const int64_t e = row * op.y.c + c;
    const Philox4 words =
        philox4x32(rng[0], rng[1], uint32_t(e / 4), rng[2], uint32_t(op.layer), uint32_t(Purpose::dropout));
    at(op.y, row, c) = uniform01(words.v[e % 4]) >= op.p ? at(op.x, row, c) * scale : 0.0f;
  });
}

}  // namespace ddpm::reference
