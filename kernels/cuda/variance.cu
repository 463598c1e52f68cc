// Learned variances: the noise of a step, and the terms of the variational bound. These are in double: differences of
// numbers of like size, and few of them.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr double kRoot = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kLn2 = 0.69314718055994530942;

// The normal distribution function by a tanh (Page 1977).
struct Normal {
  double cdf, density;
};
__device__ __forceinline__ Normal normalAt(double u) {
  const double t = tanh(kRoot * (u + 0.044715 * u * u * u));
  return {0.5 * (1 + t), 0.5 * (1 - t * t) * kRoot * (1 + 3 * 0.044715 * u * u)};
}

// A term of one element in nats, and its derivative with respect to the log variance.
struct Term {
  double value, derivative;
};

// KL of two normal distributions.
__device__ __forceinline__ Term divergence(double difference, double trueLogVar, double logVar) {
  const double ratio = exp(trueLogVar - logVar), distance = difference * difference * exp(-logVar);
  return {0.5 * (logVar - trueLogVar - 1 + ratio + distance), 0.5 * (1 - ratio - distance)};
}

// -log of the probability of the interval of 2/255 around x0, open at -1 and 1: Ho et al. 2020, eq. 13.
__device__ __forceinline__ Term decoder(double x0, double mean, double logVar) {
  const double scale = exp(-0.5 * logVar);
  const double upper = scale * (x0 - mean + 1.0 / 255), lower = scale * (x0 - mean - 1.0 / 255);
  double p = 1, slope = 0;
  if (!(x0 > 0.999)) {
    const Normal above = normalAt(upper);
    p = above.cdf;
    slope = -0.5 * upper * above.density;
  }
  if (!(x0 < -0.999)) {
    const Normal below = normalAt(lower);
    p -= below.cdf;
    slope += 0.5 * lower * below.density;
  }
  if (p < 1e-12) return {-log(1e-12), 0};
  return {-log(p), -slope / p};
}

struct Terms {
  Rows<const float> mean, trueMean, x0, v, table;
  RowIndex t;
  __device__ Term operator()(int n, int64_t e) const {
    const int step = t(n);
    const double logVar = element(table, step, 0) + double(element(table, step, 1)) * element(v, n, e);
    const double center = element(mean, n, e);
    if (element(table, step, 3) != 0) return decoder(element(x0, n, e), center, logVar);
    return divergence(element(trueMean, n, e) - center, element(table, step, 2), logVar);
  }
};

template <class Op>
Terms termsOf(const Op& op) {
  return {in(op.mean), in(op.trueMean), in(op.x0), in(op.v), in(op.table), rowIndex(op.t, op.table)};
}

// A block a sample.
__global__ void __launch_bounds__(kThreads) variationalLossKernel(Terms terms, Rows<float> loss, int size) {
  const int n = blockIdx.x;
  double sum = 0;
  for (int e = threadIdx.x; e < size; e += kThreads) sum += terms(n, e).value;
  sum = blockSum<kThreads>(sum);
  if (threadIdx.x == 0) element(loss, n, 0) = float(sum / size / kLn2);
}

struct VariationalGradients {
  Terms terms;
  Rows<const float> dLoss;
  Rows<float> dV;
  double inverseSize;
  template <int V>
  __device__ void run(int n, int64_t, int64_t e) const {
    const double scale = element(dLoss, n, 0) * inverseSize * element(terms.table, terms.t(n), 1);
    Vec<float, V> gradient;
    for (int i = 0; i < V; ++i) gradient.v[i] = float(scale * terms(n, e + i).derivative);
    store<V>(dV, n, e, gradient);
  }
};

struct VarianceNoiseElements {
  Rows<const float> x, v, table, noise;
  RowIndex t;
  Rows<float> y;
  bool shared;  // one noise for all samples
  template <int V>
  __device__ void run(int n, int64_t, int64_t e) const {
    const int step = t(n);
    const float factor = 1 - element(table, step, 3);
    const float offset = 0.5f * element(table, step, 0), slope = 0.5f * element(table, step, 1);
    auto value = load<V>(x, n, e);
    const auto raw = load<V>(v, n, e), z = load<V>(noise, shared ? 0 : n, e);
    for (int i = 0; i < V; ++i) value.v[i] += factor * expf(offset + slope * raw.v[i]) * z.v[i];
    store<V>(y, n, e, value);
  }
};

}  // namespace

void run(CudaDevice& device, const VarianceNoise& op, void*) {
  pointwise(device, bySample({&op.y, &op.x, &op.v, &op.noise}),
            VarianceNoiseElements{in(op.x), in(op.v), in(op.table), in(op.noise), rowIndex(op.t, op.table), out(op.y),
                                  op.noise.n == 1});
}

void run(CudaDevice& device, const VariationalLoss& op, void*) {
  launch<variationalLossKernel>(unsigned(op.v.n), kThreads, 0, device.stream(), termsOf(op), out(op.loss), op.v.c);
}

void run(CudaDevice& device, const VariationalLossBackward& op, void*) {
  pointwise(device, bySample({&op.dV, &op.mean, &op.trueMean, &op.x0, &op.v}),
            VariationalGradients{termsOf(op), in(op.dLoss), out(op.dV), 1 / (kLn2 * op.v.c)});
}

}  // namespace ddpm::cuda
