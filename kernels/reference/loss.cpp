// Losses, a value for each sample, and the weighted sum over samples.
#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

double huber(double difference, double delta) {
  const double distance = std::abs(difference);
  return distance > delta ? delta * (distance - delta / 2) : difference * difference / 2;
}

double elementLoss(double difference, LossType type, double delta) {
  switch (type) {
    case LossType::l1:
      return std::abs(difference);
    case LossType::l2:
      return difference * difference;
    case LossType::huber:
      return huber(difference, delta);
    case LossType::smoothL1:
      return huber(difference, delta) / delta;
    default:
      return 2 * delta * (std::hypot(difference, delta) - delta);
  }
}

// 0 stays 0, NaN stays NaN.
double derivative(double d, LossType type, double delta) {
  const double clamped = d > delta ? delta : d < -delta ? -delta : d;
  switch (type) {
    case LossType::l1:
      return d > 0 ? 1 : d < 0 ? -1 : d;
    case LossType::l2:
      return 2 * d;
    case LossType::huber:
      return clamped;
    case LossType::smoothL1:
      return clamped / delta;
    default:
      return 2 * delta * d / std::hypot(d, delta);
  }
}

double sampleSize(const Tensor& t) { return double(pixels(t)) * t.c; }

}  // namespace

void run(const Loss& op) {
  for (int n = 0; n < op.pred.n; ++n) {
    double sum = 0;
    for (int p = 0; p < pixels(op.pred); ++p)
      for (int c = 0; c < op.pred.c; ++c) {
        const int64_t row = int64_t(n) * pixels(op.pred) + p;
        sum += elementLoss(double(at(op.pred, row, c)) - at(op.target, row, c), op.type, op.delta);
      }
    at(op.loss, n, 0) = float(sum / sampleSize(op.pred));
  }
}

void run(const ElementLoss& op) {
  forEach(op.y, [&](int64_t row, int c) {
    at(op.y, row, c) = float(elementLoss(double(at(op.pred, row, c)) - at(op.target, row, c), op.type, op.delta));
  });
}

void run(const LossBackward& op) {
  forEachOfSample(op.dPred, [&](int n, int64_t row, int c) {
    const double d = derivative(double(at(op.pred, row, c)) - at(op.target, row, c), op.type, op.delta);
    at(op.dPred, row, c) = float(at(op.dLoss, n, 0) * d / sampleSize(op.pred));
  });
}

namespace {

double logSumExp(const Tensor& logits, int n) {
  double top = at(logits, n, 0);
  for (int k = 1; k < logits.c; ++k) top = std::max(top, double(at(logits, n, k)));
  double sum = 0;
  for (int k = 0; k < logits.c; ++k) sum += std::exp(double(at(logits, n, k)) - top);
  return top + std::log(sum);
}

int labelOf(const Tensor& logits, const Tensor& label, int n) { return std::clamp(index(label, n), 0, logits.c - 1); }

}  // namespace

void run(const CrossEntropy& op) {
  for (int n = 0; n < op.logits.n; ++n) {
    at(op.loss, n, 0) = float(logSumExp(op.logits, n) - at(op.logits, n, labelOf(op.logits, op.label, n)));
  }
}

void run(const CrossEntropyBackward& op) {
  for (int n = 0; n < op.logits.n; ++n) {
    const double total = logSumExp(op.logits, n);
    const int label = labelOf(op.logits, op.label, n);
    for (int k = 0; k < op.logits.c; ++k) {
      at(op.dLogits, n, k) = float(at(op.dLoss, n, 0) * (std::exp(at(op.logits, n, k) - total) - (k == label)));
    }
  }
}

void run(const WeightedSum& op) {
  double sum = 0;
  for (int n = 0; n < op.x.n; ++n) sum += double(at(op.x, n, 0)) * at(op.weight, n, 0);
  at(op.y, 0, 0) = float(sum);
}

void run(const WeightedSumBackward& op) {
  for (int n = 0; n < op.dx.n; ++n) at(op.dx, n, 0) = at(op.dy, 0, 0) * at(op.weight, n, 0);
}

}  // namespace ddpm::reference
