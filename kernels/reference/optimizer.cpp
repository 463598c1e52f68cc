// AdamW, Lion, the average of the weights, and the norm of the gradients.
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const SumSquares& op) {
  for (int64_t row = 0; row < op.x.rows(); ++row) {
    double sum = 0;
    for (int c = 0; c < op.x.c; ++c) sum += double(at(op.x, row, c)) * at(op.x, row, c);
    at(op.y, row, 0) = float(sum);
  }
}

// What gradients are multiplied by, clipping included.
static double clippedScale(const float* hyper, double squares) {
  const double gradScale = hyper[hyperGradScale];
  if (!(hyper[hyperMaxGradNorm] > 0)) return gradScale;
  const double clip = hyper[hyperMaxGradNorm] / (gradScale * std::sqrt(squares) + 1e-6);
  return gradScale * (clip > 1 ? 1 : clip);
}

// Loshchilov & Hutter 2019, algorithm 2, in the order of torch.optim.AdamW.
void run(const AdamW& op) {
  if (!std::isfinite(at(op.sumSquares, 0, 0))) return;
  const float* hyper = op.hyper.f32();
  const double lr = hyper[hyperLr], rest1 = hyper[hyperOneMinusBeta1], rest2 = hyper[hyperOneMinusBeta2];
  const double gradScale = clippedScale(hyper, at(op.sumSquares, 0, 0));
  forEach(op.weight, [&](int64_t row, int c) {
    const double grad = at(op.grad, row, c) * gradScale;
    double weight = at(op.weight, row, c);
    weight *= 1 - lr * hyper[hyperWeightDecay];
    const double m = (1 - rest1) * at(op.m, row, c) + rest1 * grad;
    const double v = (1 - rest2) * at(op.v, row, c) + rest2 * grad * grad;
    const double denominator = std::sqrt(v) / std::sqrt(double(hyper[hyperBiasCorrection2])) + hyper[hyperEps];
    weight -= lr / hyper[hyperBiasCorrection1] * m / denominator;
    at(op.m, row, c) = float(m);
    at(op.v, row, c) = float(v);
    at(op.weight, row, c) = float(weight);
    if (op.mirror) at(op.mirror, row, c) = float(weight);
  });
  if (op.ema) run(Ema{op.ema, op.weight, op.hyper});
}

// Chen et al. 2023, algorithm 2.
void run(const Lion& op) {
  if (!std::isfinite(at(op.sumSquares, 0, 0))) return;
  const float* hyper = op.hyper.f32();
  const double lr = hyper[hyperLr], rest1 = hyper[hyperOneMinusBeta1], rest2 = hyper[hyperOneMinusBeta2];
  const double gradScale = clippedScale(hyper, at(op.sumSquares, 0, 0));
  forEach(op.weight, [&](int64_t row, int c) {
    const double grad = at(op.grad, row, c) * gradScale, m = at(op.m, row, c);
    const double update = (1 - rest1) * m + rest1 * grad;
    const double sign = update > 0 ? 1 : update < 0 ? -1 : 0;
    const double weight = at(op.weight, row, c) * (1 - lr * hyper[hyperWeightDecay]) - lr * sign;
    at(op.m, row, c) = float((1 - rest2) * m + rest2 * grad);
    at(op.weight, row, c) = float(weight);
    if (op.mirror) at(op.mirror, row, c) = float(weight);
  });
  if (op.ema) run(Ema{op.ema, op.weight, op.hyper});
}

// ldm/modules/ema.py LitEma.forward
void run(const Ema& op) {
  const double decay = op.hyper.f32()[hyperEmaDecay];
  forEach(op.ema, [&](int64_t row, int c) {
    const double ema = at(op.ema, row, c);
    at(op.ema, row, c) = float(ema - (1 - decay) * (ema - at(op.weight, row, c)));
  });
}

}  // namespace ddpm::reference
