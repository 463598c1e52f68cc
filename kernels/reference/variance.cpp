// Learned variances: the noise of a step, and the terms of the variational bound.
#include <cmath>
#include <numbers>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

const double kRoot = std::sqrt(2 / std::numbers::pi);

// The normal distribution function by a tanh (Page 1977), and its derivative.
double cdf(double u) { return 0.5 * (1 + std::tanh(kRoot * (u + 0.044715 * u * u * u))); }
double density(double u) {
  const double tanh = std::tanh(kRoot * (u + 0.044715 * u * u * u));
  return 0.5 * (1 - tanh * tanh) * kRoot * (1 + 3 * 0.044715 * u * u);
}

struct Term {
  double value, derivative;  // in nats; with respect to the log variance
};

// KL of two normal distributions.
Term divergence(double trueMean, double trueLogVar, double mean, double logVar) {
  const double ratio = std::exp(trueLogVar - logVar);
  const double distance = (trueMean - mean) * (trueMean - mean) * std::exp(-logVar);
  return {0.5 * (logVar - trueLogVar - 1 + ratio + distance), 0.5 * (1 - ratio - distance)};
}

// Ho et al. 2020, eq. 13: -log of what the normal distribution gives to the interval of 2/255 around x0, which is
// open at -1 and 1.
Term decoder(double x0, double mean, double logVar) {
  const double scale = std::exp(-logVar / 2);
  const double upper = scale * (x0 - mean + 1.0 / 255), lower = scale * (x0 - mean - 1.0 / 255);
  const bool lowest = x0<-0.999, highest = x0> 0.999;
  const double p = (highest ? 1 : cdf(upper)) - (lowest ? 0 : cdf(lower));
  if (p < 1e-12) return {-std::log(1e-12), 0};
  // u = scale * distance: its derivative is -u / 2.
  const double slope = (highest ? 0 : density(upper) * -upper / 2) - (lowest ? 0 : density(lower) * -lower / 2);
  return {-std::log(p), -slope / p};
}

template <class Op>
Term termOf(const Op& op, int n, int64_t row, int e) {
  const float* r = op.table.f32() + int64_t(rowOf(op.table, op.t, n)) * op.table.ld;
  const double logVar = r[0] + double(r[1]) * at(op.v, row, e);
  const double mean = at(op.mean, row, e);
  return r[3] != 0 ? decoder(at(op.x0, row, e), mean, logVar) : divergence(at(op.trueMean, row, e), r[2], mean, logVar);
}

}  // namespace

void run(const VarianceNoise& op) {
  forEach(op.y, [&](int64_t n, int e) {
    const float* row = op.table.f32() + int64_t(rowOf(op.table, op.t, int(n))) * op.table.ld;
    const double sigma = (1 - row[3]) * std::exp((row[0] + double(row[1]) * at(op.v, n, e)) / 2);
    at(op.y, n, e) = float(at(op.x, n, e) + sigma * at(op.noise, op.noise.n == 1 ? 0 : n, e));
  });
}

void run(const VariationalLoss& op) {
  for (int n = 0; n < op.v.n; ++n) {
    double sum = 0;
    for (int e = 0; e < op.v.c; ++e) sum += termOf(op, n, n, e).value;
    at(op.loss, n, 0) = float(sum / op.v.c / std::numbers::ln2);
  }
}

void run(const VariationalLossBackward& op) {
  forEach(op.dV, [&](int64_t n, int e) {
    const double slope = at(op.table, rowOf(op.table, op.t, int(n)), 1);
    const double derivative = termOf(op, int(n), n, e).derivative;
    at(op.dV, n, e) = float(at(op.dLoss, n, 0) * slope * derivative / op.v.c / std::numbers::ln2);
  });
}

}  // namespace ddpm::reference
