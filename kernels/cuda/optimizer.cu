// AdamW, Lion, the average of the weights, and the norm of the gradients, over flat buffers of all parameters.
#include <cfloat>

#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;

// A block a row.
__global__ void __launch_bounds__(kThreads) squaresKernel(Rows<const float> x, Rows<float> y, int count) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const float element = ddpm::cuda::element(x, blockIdx.x, i);
    sum += double(element) * element;
  }
  sum = blockSum<kThreads>(sum);
  if (threadIdx.x == 0) element(y, blockIdx.x, 0) = float(sum);
}

// What gradients are multiplied by, clipping included.
__device__ inline float clippedScale(const Rows<const float>& hyper, float squares) {
  const float gradScale = element(hyper, 0, hyperGradScale), most = element(hyper, 0, hyperMaxGradNorm);
  if (!(most > 0)) return gradScale;
  const float clip = most / (gradScale * sqrtf(squares) + 1e-6f);
  return gradScale * (clip > 1 ? 1.0f : clip);
}

// Loshchilov & Hutter 2019, algorithm 2, in the order of torch.optim.AdamW; ldm/modules/ema.py LitEma.forward; and the
// narrow copy of the weights: all in one pass over the banks.
struct AdamWElements {
  static constexpr bool kMixed = true;
  Rows<float> weight, m, v, ema;
  FeatureMap mirror;
  Rows<const float> grad, hyper, sumSquares;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const auto h = [&](Hyper i) { return element(hyper, 0, i); };
    const float squares = element(sumSquares, 0, 0);
    if (!(squares <= FLT_MAX)) return;  // infinite or NaN
    const float gradScale = clippedScale(hyper, squares);
    const float rest1 = h(hyperOneMinusBeta1), rest2 = h(hyperOneMinusBeta2), eps = h(hyperEps);
    const float beta1 = 1.0f - rest1, beta2 = 1.0f - rest2;
    const float keep = 1.0f - h(hyperLr) * h(hyperWeightDecay), rate = h(hyperLr) / h(hyperBiasCorrection1);
    const float root = sqrtf(h(hyperBiasCorrection2));
    const auto g = load<V>(grad, row, c);
    auto w = load<V>(weight, row, c), first = load<V>(m, row, c), second = load<V>(v, row, c);
    for (int i = 0; i < V; ++i) {
      const float gradient = g.v[i] * gradScale;
      first.v[i] = beta1 * first.v[i] + rest1 * gradient;
      second.v[i] = beta2 * second.v[i] + rest2 * gradient * gradient;
      w.v[i] = w.v[i] * keep - rate * first.v[i] / (sqrtf(second.v[i]) / root + eps);
    }
    store<V>(m, row, c, first);
    store<V>(v, row, c, second);
    store<V>(weight, row, c, w);
    if (mirror) store<V>(mirror, row, c, w);
    if (!ema) return;
    const float rest = 1.0f - h(hyperEmaDecay);
    auto average = load<V>(ema, row, c);
    for (int i = 0; i < V; ++i) average.v[i] -= rest * (average.v[i] - w.v[i]);
    store<V>(ema, row, c, average);
  }
};

// Chen et al. 2023, algorithm 2, and what comes with AdamW.
struct LionElements {
  static constexpr bool kMixed = true;
  Rows<float> weight, m, ema;
  FeatureMap mirror;
  Rows<const float> grad, hyper, sumSquares;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const auto h = [&](Hyper i) { return element(hyper, 0, i); };
    const float squares = element(sumSquares, 0, 0);
    if (!(squares <= FLT_MAX)) return;  // infinite or NaN
    const float gradScale = clippedScale(hyper, squares);
    const float lr = h(hyperLr), rest1 = h(hyperOneMinusBeta1), rest2 = h(hyperOneMinusBeta2);
    const float beta1 = 1.0f - rest1, beta2 = 1.0f - rest2, keep = 1.0f - lr * h(hyperWeightDecay);
    const auto g = load<V>(grad, row, c);
    auto w = load<V>(weight, row, c), first = load<V>(m, row, c);
    for (int i = 0; i < V; ++i) {
      const float gradient = g.v[i] * gradScale;
      const float update = beta1 * first.v[i] + rest1 * gradient;
      first.v[i] = beta2 * first.v[i] + rest2 * gradient;
      w.v[i] = w.v[i] * keep - (update > 0 ? lr : update < 0 ? -lr : 0.0f);
    }
    store<V>(m, row, c, first);
    store<V>(weight, row, c, w);
    if (mirror) store<V>(mirror, row, c, w);
    if (!ema) return;
    const float rest = 1.0f - h(hyperEmaDecay);
    auto average = load<V>(ema, row, c);
    for (int i = 0; i < V; ++i) average.v[i] -= rest * (average.v[i] - w.v[i]);
    store<V>(ema, row, c, average);
  }
};

// ldm/modules/ema.py LitEma.forward
struct EmaElements {
  Rows<float> ema;
  Rows<const float> weight, hyper;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const float rate = 1.0f - element(hyper, 0, hyperEmaDecay);
    auto average = load<V>(ema, row, c);
    const auto now = load<V>(weight, row, c);
    for (int i = 0; i < V; ++i) average.v[i] -= rate * (average.v[i] - now.v[i]);
    store<V>(ema, row, c, average);
  }
};

}  // namespace

void run(CudaDevice& device, const SumSquares& op, void*) {
  launch<squaresKernel>(unsigned(op.x.rows()), kThreads, 0, device.stream(), in(op.x), out(op.y), op.x.c);
}

void run(CudaDevice& device, const AdamW& op, void*) {
  const AdamWElements elements = {out(op.weight),        out(op.m),   out(op.v),    out(op.ema),
                                  featureMap(op.mirror), in(op.grad), in(op.hyper), in(op.sumSquares)};
  pointwise(device, flat({&op.weight, &op.grad, &op.m, &op.v, &op.ema, &op.mirror}), elements);
}

void run(CudaDevice& device, const Lion& op, void*) {
  const LionElements elements = {out(op.weight), out(op.m),    out(op.ema),      featureMap(op.mirror),
                                 in(op.grad),    in(op.hyper), in(op.sumSquares)};
  pointwise(device, flat({&op.weight, &op.grad, &op.m, &op.ema, &op.mirror}), elements);
}

void run(CudaDevice& device, const Ema& op, void*) {
  pointwise(device, flat({&op.ema, &op.weight}), EmaElements{out(op.ema), in(op.weight), in(op.hyper)});
}

}  // namespace ddpm::cuda
