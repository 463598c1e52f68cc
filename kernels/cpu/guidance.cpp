// What guided sampling does with predictions. Deviations are sums in double.
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

}  // namespace ddpm::cpu::DDPM_ISA
