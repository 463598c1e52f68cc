// Losses, a value for each sample, and the weighted sum over samples.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;

// NaN stays NaN in all.
template <LossType type>
__device__ __forceinline__ float elementLoss(float d, float delta) {
  if (type == LossType::l1) return fabsf(d);
  if (type == LossType::l2) return d * d;
  // d^2 / (sqrt(d^2 + delta^2) + delta) is the difference of the two without cancellation.
  if (type == LossType::pseudoHuber) return 2.0f * delta * d * (d / (sqrtf(d * d + delta * delta) + delta));
  const float m = fabsf(d) < delta ? fabsf(d) : delta;
  const float huber = m * (fabsf(d) - 0.5f * m);
  return type == LossType::huber ? huber : huber / delta;
}

template <LossType type>
__device__ __forceinline__ float derivative(float d, float delta) {
  if (type == LossType::l1) return d > 0 ? 1.0f : d < 0 ? -1.0f : d;
  if (type == LossType::l2) return 2.0f * d;
  if (type == LossType::pseudoHuber) return 2.0f * delta * d / sqrtf(d * d + delta * delta);
  const float clamped = d > delta ? delta : d < -delta ? -delta : d;
  return type == LossType::huber ? clamped : clamped / delta;
}

// A block a sample. Threads walk over channels and then pixels; their sums, few and of like size, are added in double.
template <LossType type>
__global__ void __launch_bounds__(kThreads) lossKernel(Rows<const float> pred, Rows<const float> target,
                                                       Rows<float> loss, int area, int channels, float delta) {
  const int n = blockIdx.x;
  const int64_t size = int64_t(area) * channels;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    const int64_t row = n * int64_t(area) + i / channels;
    const int c = int(i % channels);
    sum += elementLoss<type>(element(pred, row, c) - element(target, row, c), delta);
  }
  const double total = blockSum<kThreads>(double(sum));
  if (threadIdx.x == 0) element(loss, n, 0) = float(total / double(size));
}

template <LossType type>
struct LossElements {
  Rows<const float> pred, target;
  Rows<float> y;
  float delta;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(pred, row, c);
    const auto other = load<V>(target, row, c);
    for (int i = 0; i < V; ++i) value.v[i] = elementLoss<type>(value.v[i] - other.v[i], delta);
    store<V>(y, row, c, value);
  }
};

template <LossType type>
struct LossGradients {
  Rows<const float> pred, target, dLoss;
  Rows<float> dPred;
  float inverseSize, delta;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    auto value = load<V>(pred, row, c);
    const auto other = load<V>(target, row, c);
    const float scale = element(dLoss, n, 0) * inverseSize;
    for (int i = 0; i < V; ++i) value.v[i] = scale * derivative<type>(value.v[i] - other.v[i], delta);
    store<V>(dPred, row, c, value);
  }
};

struct Logits {
  Rows<const float> logits;
  Rows<const int32_t> label;
  int classes;
  __device__ __forceinline__ int labelOf(int n) const { return min(max(element(label, n, 0), 0), classes - 1); }
  // log sum exp, for every thread of the block; in double, as few as they are.
  __device__ __forceinline__ double logSum(int n) const {
    double top = element(logits, n, 0), sum = 0;
    for (int k = 1; k < classes; ++k) top = element(logits, n, k) > top ? element(logits, n, k) : top;
    for (int k = threadIdx.x; k < classes; k += kThreads) sum += exp(element(logits, n, k) - top);
    return top + log(blockSum<kThreads>(sum));
  }
};

// A block a sample.
__global__ void __launch_bounds__(kThreads) crossEntropyKernel(Logits logits, Rows<float> loss) {
  const int n = blockIdx.x;
  const double total = logits.logSum(n);
  if (threadIdx.x == 0) element(loss, n, 0) = float(total - element(logits.logits, n, logits.labelOf(n)));
}

__global__ void __launch_bounds__(kThreads)
    crossEntropyGradientKernel(Logits logits, Rows<const float> dLoss, Rows<float> dLogits) {
  const int n = blockIdx.x, label = logits.labelOf(n);
  const double total = logits.logSum(n);
  for (int k = threadIdx.x; k < logits.classes; k += kThreads) {
    const double p = exp(element(logits.logits, n, k) - total);
    element(dLogits, n, k) = float(element(dLoss, n, 0) * (p - (k == label)));
  }
}

__global__ void __launch_bounds__(kThreads)
    weightedSumKernel(Rows<const float> x, Rows<const float> weight, Rows<float> y, int samples) {
  double sum = 0;
  for (int n = threadIdx.x; n < samples; n += kThreads) sum += double(element(x, n, 0)) * element(weight, n, 0);
  sum = blockSum<kThreads>(sum);
  if (threadIdx.x == 0) element(y, 0, 0) = float(sum);
}

struct WeightedSumGradients {
  Rows<const float> weight, dy;
  Rows<float> dx;
  template <int V>
  __device__ void run(int, int64_t n, int64_t) const {
    element(dx, n, 0) = element(dy, 0, 0) * element(weight, n, 0);
  }
};

// f<type>() for the op's type.
template <class F>
void forType(LossType type, F f) {
  switch (type) {
    case LossType::l1:
      return f.template operator()<LossType::l1>();
    case LossType::l2:
      return f.template operator()<LossType::l2>();
    case LossType::huber:
      return f.template operator()<LossType::huber>();
    case LossType::smoothL1:
      return f.template operator()<LossType::smoothL1>();
    case LossType::pseudoHuber:
      return f.template operator()<LossType::pseudoHuber>();
  }
}

}  // namespace

void run(CudaDevice& device, const Loss& op, void*) {
  forType(op.type, [&]<LossType type>() {
    launch<lossKernel<type>>(unsigned(op.pred.n), kThreads, 0, device.stream(), in(op.pred), in(op.target),
                             out(op.loss), pixels(op.pred), op.pred.c, op.delta);
  });
}

void run(CudaDevice& device, const ElementLoss& op, void*) {
  forType(op.type, [&]<LossType type>() {
    pointwise(device, flat({&op.y, &op.pred, &op.target}),
              LossElements<type>{in(op.pred), in(op.target), out(op.y), op.delta});
  });
}

void run(CudaDevice& device, const LossBackward& op, void*) {
  const float inverseSize = float(1.0 / (double(pixels(op.pred)) * op.pred.c));
  forType(op.type, [&]<LossType type>() {
    pointwise(device, bySample({&op.dPred, &op.pred, &op.target}),
              LossGradients<type>{in(op.pred), in(op.target), in(op.dLoss), out(op.dPred), inverseSize, op.delta});
  });
}

void run(CudaDevice& device, const CrossEntropy& op, void*) {
  const Logits logits = {in(op.logits), indices(op.label), op.logits.c};
  launch<crossEntropyKernel>(unsigned(op.logits.n), kThreads, 0, device.stream(), logits, out(op.loss));
}

void run(CudaDevice& device, const CrossEntropyBackward& op, void*) {
  const Logits logits = {in(op.logits), indices(op.label), op.logits.c};
  launch<crossEntropyGradientKernel>(unsigned(op.logits.n), kThreads, 0, device.stream(), logits, in(op.dLoss),
                                     out(op.dLogits));
}

void run(CudaDevice& device, const WeightedSum& op, void*) {
  launch<weightedSumKernel>(1, kThreads, 0, device.stream(), in(op.x), in(op.weight), out(op.y), op.x.n);
}

void run(CudaDevice& device, const WeightedSumBackward& op, void*) {
  forEachSample(device, op.dx.n, WeightedSumGradients{in(op.weight), in(op.dy), out(op.dx)});
}

}  // namespace ddpm::cuda
