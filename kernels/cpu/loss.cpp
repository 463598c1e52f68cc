// l1 and l2, a value for each sample, and the weighted sum over samples. Losses are of image size: small.
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

float* rowOf(const Tensor& t, int64_t n, int64_t row) { return t.f32() + (n * t.h * t.w + row) * t.ld; }

}  // namespace

void run(CpuDevice& device, const Loss& op, void*) {
  const SampleShape shape(op.pred, op.target, op.pred);
  device.pool.parallelFor(op.pred.n, [&](int64_t n, int) {
    double sum = 0;
    for (int64_t row = 0; row < shape.rows; ++row) {
      const float *pred = rowOf(op.pred, n, row), *target = rowOf(op.target, n, row);
      const auto difference = [=](int64_t i) { return double(pred[i]) - target[i]; };
      sum += op.type == LossType::l1 ? sumDouble(shape.width, [=](int64_t i) { return __builtin_fabs(difference(i)); })
                                     : sumDouble(shape.width, [=](int64_t i) { return difference(i) * difference(i); });
    }
    op.loss.f32()[n * op.loss.ld] = float(sum / double(shape.rows * shape.width));
  });
}

void run(CpuDevice& device, const ElementLoss& op, void*) {
  forRows(device, {op.pred, op.target, op.y}, [&](float* const* p, int64_t count) {
    const float *pred = p[0], *target = p[1];
    float* y = p[2];
    forChannels(count, [&](int64_t i, auto part) {
      const vf d = part.load(pred + i) - part.load(target + i);
      part.store(y + i, op.type == LossType::l1 ? abs(d) : d * d);
    });
  });
}

// l1: sign(d) dLoss / D, 0 at 0; l2: 2 d dLoss / D.
void run(CpuDevice& device, const LossBackward& op, void*) {
  const SampleShape shape(op.pred, op.target, op.dPred);
  device.pool.parallelFor(op.pred.n, [&](int64_t n, int) {
    const float dMean = float(double(op.dLoss.f32()[n * op.dLoss.ld]) / double(shape.rows * shape.width));
    for (int64_t row = 0; row < shape.rows; ++row) {
      const float *pred = rowOf(op.pred, n, row), *target = rowOf(op.target, n, row);
      float* dPred = rowOf(op.dPred, n, row);
      forChannels(shape.width, [&](int64_t i, auto part) {
        const vf d = part.load(pred + i) - part.load(target + i);
        const vf sign = select(d > 0.0f, broadcast(1), select(d < 0.0f, broadcast(-1), d));  // NaN stays NaN
        part.store(dPred + i, op.type == LossType::l1 ? sign * dMean : d * (2 * dMean));
      });
    }
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
