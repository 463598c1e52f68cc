// What guided sampling does with predictions. Deviations are sums in double.
#include <bit>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_double.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

double deviation(const Tensor& t, int64_t n) {
  const float* x = t.f32() + n * t.ld;
  const double mean = sumDouble(t.c, [=](int64_t i) { return double(x[i]); }) / t.c;
  return __builtin_sqrt(sumDouble(t.c, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / t.c);
}

}  // namespace

void run(CpuDevice& device, const RescaleGuidance& op, void*) {
  device.pool.parallelFor(op.x.n, [&](int64_t n, int) {
    const double own = deviation(op.x, n);
    const double ratio = own == 0 ? 1 : deviation(op.reference, n) / own;
    const float factor = float(1 - op.amount + op.amount * ratio);
    const float* x = op.x.f32() + n * op.x.ld;
    float* y = op.y.f32() + n * op.y.ld;
    forChannels(op.x.c, [&](int64_t i, auto part) { part.store(y + i, part.load(x + i) * factor); });
  });
}

// Bit by bit from the highest: absolute values are ordered as their bits are, so that v[rank] is the greatest number
// below which there are no more than `rank` of them. Here for two ranks at once.
void run(CpuDevice& device, const AbsQuantile& op, void*) {
  device.pool.parallelFor(op.x.n, [&](int64_t n, int) {
    const float* x = op.x.f32() + n * op.x.ld;
    const int32_t ranks[2] = {op.rank, op.part > 0 ? op.rank + 1 : op.rank};
    int32_t found[2] = {0, 0};
    for (int bit = 30; bit >= 0; --bit) {
      const int32_t first = found[0] | 1 << bit, second = found[1] | 1 << bit;
      int32_t below[2] = {0, 0};
      for (int32_t i = 0; i < op.x.c; ++i) {
        const int32_t key = std::bit_cast<int32_t>(x[i]) & 0x7FFFFFFF;
        below[0] += key < first;
        below[1] += key < second;
      }
      if (below[0] <= ranks[0]) found[0] = first;
      if (below[1] <= ranks[1]) found[1] = second;
    }
    const float low = std::bit_cast<float>(found[0]), high = std::bit_cast<float>(found[1]);
    const float y = op.part > 0 ? low + op.part * (high - low) : low;
    op.y.f32()[n * op.y.ld] = y < op.least ? op.least : y > op.most ? op.most : y;
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
