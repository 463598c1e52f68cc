// Losses, a value for each sample, and the weighted sum over samples. Losses are of image size: small.
#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_double.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

// A sample is `rows` rows of `width` elements; one row where the tensors are dense.
struct SampleShape {
  int64_t rows, width;
  SampleShape(const Tensor& a, const Tensor& b, const Tensor& c) : rows(int64_t(a.h) * a.w), width(a.c) {
    if (!a.dense() || !b.dense() || !c.dense()) return;
    width *= rows;
    rows = 1;
  }
};

DDPM_INLINE double magnitude(double d) { return __builtin_fabs(d); }
DDPM_INLINE vf magnitude(vf d) { return abs(d); }
DDPM_INLINE double root(double x) { return __builtin_sqrt(x); }
DDPM_INLINE vf root(vf x) { return sqrt(x); }

// f(d) in double and in vectors of float, and f'(d). NaN stays NaN in all.
struct L1 {
  template <class V>
  DDPM_INLINE V value(V d) const {
    return magnitude(d);
  }
  DDPM_INLINE vf slope(vf d) const { return select(d > 0.0f, broadcast(1), select(d < 0.0f, broadcast(-1), d)); }
};
struct L2 {
  template <class V>
  DDPM_INLINE V value(V d) const {
    return d * d;
  }
  DDPM_INLINE vf slope(vf d) const { return 2.0f * d; }
};
// Huber's times `factor`.
struct Huber {
  float delta, factor;
  template <class V>
  DDPM_INLINE V value(V d) const {
    const V distance = magnitude(d), most = delta - V{};
    const V m = distance < most ? distance : most;
    return factor * m * (distance - 0.5f * m);
  }
  DDPM_INLINE vf slope(vf d) const {
    const vf most = broadcast(delta);
    return factor * select(abs(d) > most, copySign(most, d), d);
  }
};
struct PseudoHuber {
  float delta;
  template <class V>
  DDPM_INLINE V value(V d) const {
    const V most = delta - V{};
    // d^2 / (sqrt(d^2 + delta^2) + delta) is the difference of the two without cancellation.
    return 2 * delta * d * (d / (root(d * d + most * most) + most));
  }
  DDPM_INLINE vf slope(vf d) const { return 2 * delta * d / sqrt(d * d + delta * delta); }
};

template <class F>
void withLoss(LossType type, float delta, F f) {
  switch (type) {
    case LossType::l1:
      return f(L1{});
    case LossType::l2:
      return f(L2{});
    case LossType::huber:
      return f(Huber{delta, 1});
    case LossType::smoothL1:
      return f(Huber{delta, 1 / delta});
    case LossType::pseudoHuber:
      return f(PseudoHuber{delta});
  }
}

float* rowOf(const Tensor& t, int64_t n, int64_t row) { return t.f32() + (n * t.h * t.w + row) * t.ld; }

// The logits of a sample, and what they have to do with its label.
struct Logits {
  const float* x;
  int64_t label;
  double logSum;
  Logits(const Tensor& logits, const Tensor& labels, int64_t n) : x(logits.f32() + n * logits.ld) {
    const int64_t given = labels.i32()[n * labels.ld], last = logits.c - 1;
    label = given < 0 ? 0 : given < last ? given : last;
    double top = x[0];
    for (int64_t k = 1; k < logits.c; ++k) top = x[k] > top ? x[k] : top;
    logSum = top + __builtin_log(sumDouble(logits.c, [=, this](int64_t k) { return __builtin_exp(x[k] - top); }));
  }
};

}  // namespace

void run(CpuDevice& device, const Loss& op, void*) {
  const SampleShape shape(op.pred, op.target, op.pred);
  withLoss(op.type, op.delta, [&](auto loss) {
    device.pool.parallelFor(op.pred.n, [&](int64_t n, int) {
      double sum = 0;
      for (int64_t row = 0; row < shape.rows; ++row) {
        const float *pred = rowOf(op.pred, n, row), *target = rowOf(op.target, n, row);
        sum += sumDouble(shape.width, [=](int64_t i) { return loss.value(double(pred[i]) - target[i]); });
      }
      op.loss.f32()[n * op.loss.ld] = float(sum / double(shape.rows * shape.width));
    });
  });
}

void run(CpuDevice& device, const ElementLoss& op, void*) {
  withLoss(op.type, op.delta, [&](auto loss) {
    forRows(device, {op.pred, op.target, op.y}, [&](float* const* p, int64_t count) {
      const float *pred = p[0], *target = p[1];
      float* y = p[2];
      forChannels(count, [&](int64_t i, auto part) {
        part.store(y + i, loss.value(part.load(pred + i) - part.load(target + i)));
      });
    });
  });
}

// f'(d) dLoss / D.
void run(CpuDevice& device, const LossBackward& op, void*) {
  const SampleShape shape(op.pred, op.target, op.dPred);
  withLoss(op.type, op.delta, [&](auto loss) {
    device.pool.parallelFor(op.pred.n, [&](int64_t n, int) {
      const float dMean = float(double(op.dLoss.f32()[n * op.dLoss.ld]) / double(shape.rows * shape.width));
      for (int64_t row = 0; row < shape.rows; ++row) {
        const float *pred = rowOf(op.pred, n, row), *target = rowOf(op.target, n, row);
        float* dPred = rowOf(op.dPred, n, row);
        forChannels(shape.width, [&](int64_t i, auto part) {
          part.store(dPred + i, loss.slope(part.load(pred + i) - part.load(target + i)) * dMean);
        });
      }
    });
  });
}

void run(CpuDevice& device, const CrossEntropy& op, void*) {
  device.pool.parallelFor(op.logits.n, [&](int64_t n, int) {
    const Logits logits(op.logits, op.label, n);
    op.loss.f32()[n * op.loss.ld] = float(logits.logSum - logits.x[logits.label]);
  });
}

void run(CpuDevice& device, const CrossEntropyBackward& op, void*) {
  device.pool.parallelFor(op.logits.n, [&](int64_t n, int) {
    const Logits logits(op.logits, op.label, n);
    const double dLoss = op.dLoss.f32()[n * op.dLoss.ld];
    float* d = op.dLogits.f32() + n * op.dLogits.ld;
    for (int64_t k = 0; k < op.logits.c; ++k)
      d[k] = float(dLoss * (__builtin_exp(logits.x[k] - logits.logSum) - (k == logits.label)));
  });
}

void run(CpuDevice&, const WeightedSum& op, void*) {
  double sum = 0;
  for (int64_t n = 0; n < op.x.n; ++n) sum += double(op.x.f32()[n * op.x.ld]) * op.weight.f32()[n * op.weight.ld];
  op.y.f32()[0] = float(sum);
}

void run(CpuDevice&, const WeightedSumBackward& op, void*) {
  for (int64_t n = 0; n < op.dx.n; ++n) op.dx.f32()[n * op.dx.ld] = op.dy.f32()[0] * op.weight.f32()[n * op.weight.ld];
}

}  // namespace ddpm::cpu::DDPM_ISA
