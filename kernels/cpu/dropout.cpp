// Dropout (Srivastava et al. 2014). Element e of the dense NHWC order is kept where word e%4 of the Philox block
// {e/4, step, layer, dropout} maps to a uniform number of at least p; so the mask needs no memory.
#include "kernels/cpu/rows.h"
#include "kernels/philox.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kChunk = 1024;  // a multiple of what kWidth blocks give: chunks start with a block

// The uniform numbers of kChunk elements: philox4x32 and uniform01 of kernels/philox.h, kWidth blocks at a time.
void fillUniform(const Dropout& op, int64_t begin, float* u) {
  const uint32_t* rng = static_cast<const uint32_t*>(op.rng.data);
  const auto uniform = [](vu word) { return toFloat((vi)(word >> 9)) * 0x1p-23f + 0x1p-24f; };
  for (int64_t i = 0; i < kChunk; i += 4 * kWidth) {
    uint32_t k0 = rng[0], k1 = rng[1];
    vu c0 = uint32_t((begin + i) / 4) + (vu)iota(), c1 = rng[2] - vu{};
    vu c2 = uint32_t(op.layer) - vu{}, c3 = uint32_t(Purpose::dropout) - vu{};
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const Product a = multiplyWide(c0, kPhiloxM0), b = multiplyWide(c2, kPhiloxM1);
      c0 = b.high ^ c1 ^ k0;
      c2 = a.high ^ c3 ^ k1;
      c1 = b.low;
      c3 = a.low;
      k0 += kPhiloxW0;
      k1 += kPhiloxW1;
    }
    const vf first = uniform(c0), second = uniform(c1), third = uniform(c2), fourth = uniform(c3);
    for (int half = 0; half < 2; ++half) {
      const vf even = interleave(first, third, half), odd = interleave(second, fourth, half);
      store(u + i + 2 * half * kWidth, interleave(even, odd, false));
      store(u + i + (2 * half + 1) * kWidth, interleave(even, odd, true));
    }
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
