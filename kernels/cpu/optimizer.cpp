// AdamW, Lion, the average of the weights, and the norm of the gradients, over flat buffers. All are bound by memory.
#include <math.h>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_double.h"

namespace ddpm::cpu::DDPM_ISA {

void run(CpuDevice& device, const SumSquares& op, void*) {
  device.pool.parallelFor(op.x.rows(), [&](int64_t row, int) {
    const float* x = op.x.f32() + row * op.x.ld;
    op.y.f32()[row * op.y.ld] = float(sumDouble(op.x.c, [&](int64_t i) { return double(x[i]) * x[i]; }));
  });
}

// What gradients are multiplied by, clipping included.
static float clippedScale(const float* hyper, float squares) {
  const float gradScale = hyper[hyperGradScale];
  if (!(hyper[hyperMaxGradNorm] > 0)) return gradScale;
  const double norm = gradScale * ::sqrt(double(squares));
  const double clip = hyper[hyperMaxGradNorm] / (norm + 1e-6);
  return float(gradScale * (clip > 1 ? 1 : clip));
}

// Loshchilov & Hutter 2019, algorithm 2, in the order of torch.optim.AdamW; the scalars are computed in double as
// there.
void run(CpuDevice& device, const AdamW& op, void*) {
  if (!::isfinite(op.sumSquares.f32()[0])) return;
  const float* hyper = op.hyper.f32();
  const double lr = hyper[hyperLr];
  const float rest1 = hyper[hyperOneMinusBeta1], rest2 = hyper[hyperOneMinusBeta2], eps = hyper[hyperEps];
  const float beta1 = float(1 - double(rest1)), beta2 = float(1 - double(rest2));
  const float decay = float(1 - lr * hyper[hyperWeightDecay]);
  const float stepSize = float(lr / hyper[hyperBiasCorrection1]);
  const float correction = float(::sqrt(double(hyper[hyperBiasCorrection2])));
  const float gradScale = clippedScale(hyper, op.sumSquares.f32()[0]);
  const float rest = 1 - hyper[hyperEmaDecay];
  const bool averages = bool(op.ema);
  const Tensor& last = averages ? op.ema : op.weight;  // forRows wants memory for each
  forRows(device, {op.weight, op.grad, op.m, op.v, last}, [=](float* const* p, int64_t count) {
    float *weight = p[0], *grad = p[1], *m = p[2], *v = p[3], *ema = p[4];
    forChannels(count, [=](int64_t i, auto part) {
      const vf g = part.load(grad + i) * gradScale;
      const vf first = beta1 * part.load(m + i) + rest1 * g;
      const vf second = beta2 * part.load(v + i) + rest2 * g * g;
      const vf denominator = sqrt(second) / correction + eps;
      part.store(m + i, first);
      part.store(v + i, second);
      const vf w = part.load(weight + i) * decay - stepSize * first / denominator;
      part.store(weight + i, w);
      if (!averages) return;
      const vf e = part.load(ema + i);
      part.store(ema + i, e - rest * (e - w));
    });
  });
}

// Chen et al. 2023, algorithm 2.
void run(CpuDevice& device, const Lion& op, void*) {
  if (!::isfinite(op.sumSquares.f32()[0])) return;
  const float* hyper = op.hyper.f32();
  const float lr = hyper[hyperLr], rest1 = hyper[hyperOneMinusBeta1], rest2 = hyper[hyperOneMinusBeta2];
  const float beta1 = float(1 - double(rest1)), beta2 = float(1 - double(rest2));
  const float decay = float(1 - double(lr) * hyper[hyperWeightDecay]);
  const float gradScale = clippedScale(hyper, op.sumSquares.f32()[0]);
  const float rest = 1 - hyper[hyperEmaDecay];
  const bool averages = bool(op.ema);
  const Tensor& last = averages ? op.ema : op.weight;  // forRows wants memory for each
  forRows(device, {op.weight, op.grad, op.m, last}, [=](float* const* p, int64_t count) {
    float *weight = p[0], *grad = p[1], *m = p[2], *ema = p[3];
    forChannels(count, [=](int64_t i, auto part) {
      const vf g = part.load(grad + i) * gradScale;
      const vf before = part.load(m + i);
      const vf update = beta1 * before + rest1 * g;
      part.store(m + i, beta2 * before + rest2 * g);
      const vf step = select(update == 0.0f, zero(), copySign(broadcast(lr), update));
      const vf w = part.load(weight + i) * decay - step;
      part.store(weight + i, w);
      if (!averages) return;
      const vf e = part.load(ema + i);
      part.store(ema + i, e - rest * (e - w));
    });
  });
}

// ldm/modules/ema.py LitEma.forward
void run(CpuDevice& device, const Ema& op, void*) {
  const float rest = 1 - op.hyper.f32()[hyperEmaDecay];
  forRows(device, {op.ema, op.weight}, [=](float* const* p, int64_t count) {
    float *ema = p[0], *weight = p[1];
    forChannels(count, [=](int64_t i, auto part) {
      const vf e = part.load(ema + i);
      part.store(ema + i, e - rest * (e - part.load(weight + i)));
    });
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
