// Dropout (Srivastava et al. 2014). Element e of the dense NHWC order is kept where word e%4 of the Philox block
// {e/4, step, layer, dropout} maps to a uniform number of at least p; so the mask needs no memory.
#include "kernels/cpu/rows.h"
#include "kernels/philox.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kChunk = 1024;  // a multiple of 4: chunks start with a block

void fillUniform(const Dropout& op, int64_t begin, float* u) {
  const uint32_t* rng = static_cast<const uint32_t*>(op.rng.data);
  for (int64_t i = 0; i < kChunk; i += 4) {
    const Philox4 words =
        philox4x32(rng[0], rng[1], uint32_t((begin + i) / 4), rng[2], uint32_t(op.layer), uint32_t(Purpose::dropout));
    for (int j = 0; j < 4; ++j) u[i + j] = uniform01(words.v[j]);
  }
}

}  // namespace

void run(CpuDevice& device, const Dropout& op, void*) {
  const int64_t elements = op.y.elements();
  // A dense tensor is one row.
  const int64_t width = op.x.dense() && op.y.dense() ? elements : op.y.c;
  const float scale = 1 / (1 - op.p);
  device.pool.parallelRange(elements, kChunk, [&](int64_t begin, int64_t end) {
    float u[kChunk];
    fillUniform(op, begin, u);
    for (int64_t e = begin; e < end;) {
      const int64_t row = e / width, column = e % width;
      const int64_t count = width - column < end - e ? width - column : end - e;
      const float *x = op.x.f32() + row * op.x.ld + column, *keep = u + (e - begin);
      float* y = op.y.f32() + row * op.y.ld + column;
      forChannels(count, [&](int64_t i, auto part) {
        part.store(y + i, select(part.load(keep + i) >= op.p, part.load(x + i) * scale, zero()));
      });
      e += count;
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
