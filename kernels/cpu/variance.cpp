// Learned variances: the noise of a step, and the terms of the variational bound. Losses are of image size: small, and
// computed in double, since the terms are small differences.
#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_double.h"
#include "kernels/cpu/table_row.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr double kRoot = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kLn2 = 0.69314718055994530942;
constexpr int64_t kChunk = 2048;  // elements of a task

float* at(const Tensor& t, int64_t n) { return t.f32() + n * t.ld; }

// The normal distribution function by a tanh (Page 1977).
struct Normal {
  double cdf, density;
  explicit Normal(double u) {
    const double tanh = __builtin_tanh(kRoot * (u + 0.044715 * u * u * u));
    cdf = 0.5 * (1 + tanh);
    density = 0.5 * (1 - tanh * tanh) * kRoot * (1 + 3 * 0.044715 * u * u);
  }
};

// A term of one element in nats, and its derivative with respect to the log variance.
struct Term {
  double value, derivative;
};

// KL of two normal distributions.
DDPM_INLINE Term divergence(double difference, double trueLogVar, double logVar) {
  const double inverse = __builtin_exp(-logVar);
  const double ratio = __builtin_exp(trueLogVar) * inverse, distance = difference * difference * inverse;
  return {0.5 * (logVar - trueLogVar - 1 + ratio + distance), 0.5 * (1 - ratio - distance)};
}

// -log of the probability of the interval of 2/255 around x0, open at -1 and 1: Ho et al. 2020, eq. 13.
Term decoder(double x0, double mean, double logVar) {
  const double scale = __builtin_exp(-0.5 * logVar);
  const double upper = scale * (x0 - mean + 1.0 / 255), lower = scale * (x0 - mean - 1.0 / 255);
  double p = 0, slope = 0;
  if (x0 > 0.999)
    p = 1;
  else {
    const Normal above(upper);
    p = above.cdf;
    slope = -0.5 * upper * above.density;
  }
  if (!(x0 < -0.999)) {
    const Normal below(lower);
    p -= below.cdf;
    slope += 0.5 * lower * below.density;
  }
  if (p < 1e-12) return {-__builtin_log(1e-12), 0};
  return {-__builtin_log(p), -slope / p};
}

// f(e): the term of element e of sample n.
template <class Op>
auto termsOf(const Op& op, int64_t n) {
  const float* row = rowOf(op.table, op.t, n);
  const float *mean = at(op.mean, n), *trueMean = at(op.trueMean, n), *x0 = at(op.x0, n), *v = at(op.v, n);
  return [=](int64_t e) {
    const double logVar = row[0] + double(row[1]) * v[e];
    return row[3] != 0 ? decoder(x0[e], mean[e], logVar) : divergence(double(trueMean[e]) - mean[e], row[2], logVar);
  };
}

}  // namespace

void run(CpuDevice& device, const VarianceNoise& op, void*) {
  const int64_t chunks = (op.y.c + kChunk - 1) / kChunk;
  device.pool.parallelFor(op.y.n * chunks, [&](int64_t task, int) {
    const int64_t n = task / chunks, begin = task % chunks * kChunk;
    const int64_t count = op.y.c - begin < kChunk ? op.y.c - begin : kChunk;
    const float* row = rowOf(op.table, op.t, n);
    const float *x = at(op.x, n) + begin, *v = at(op.v, n) + begin;
    const float* noise = at(op.noise, op.noise.n == 1 ? 0 : n) + begin;
    float* y = at(op.y, n) + begin;
    const float factor = 1 - row[3], offset = 0.5f * row[0], slope = 0.5f * row[1];
    forChannels(count, [&](int64_t i, auto part) {
      const vf sigma = factor * exp(offset + slope * part.load(v + i));
      part.store(y + i, sigma * part.load(noise + i) + part.load(x + i));
    });
  });
}

void run(CpuDevice& device, const VariationalLoss& op, void*) {
  device.pool.parallelFor(op.v.n, [&](int64_t n, int) {
    const auto term = termsOf(op, n);
    const double sum = sumDouble(op.v.c, [&](int64_t e) { return term(e).value; });
    *at(op.loss, n) = float(sum / double(op.v.c) / kLn2);
  });
}

void run(CpuDevice& device, const VariationalLossBackward& op, void*) {
  device.pool.parallelFor(op.v.n, [&](int64_t n, int) {
    const auto term = termsOf(op, n);
    const double scale = double(*at(op.dLoss, n)) * rowOf(op.table, op.t, n)[1] / double(op.v.c) / kLn2;
    float* dV = at(op.dV, n);
    for (int64_t e = 0; e < op.v.c; ++e) dV[e] = float(scale * term(e).derivative);
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
