// Latents of first stages: a posterior's sample and its divergence, and the nearest entry of a codebook.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLow = -30, kHigh = 20;

// NaN stays NaN.
__device__ __forceinline__ float clamped(float l) { return l < kLow ? kLow : l > kHigh ? kHigh : l; }
__device__ __forceinline__ bool isClamped(float l) { return l < kLow || l > kHigh; }

struct Samples {
  Rows<const float> moments, noise;
  Rows<float> y;
  int half;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(moments, row, c);
    const auto z = load<V>(noise, row, c);
    for (int i = 0; i < V; ++i) value.v[i] += expf(0.5f * clamped(element(moments, row, half + c + i))) * z.v[i];
    store<V>(y, row, c, value);
  }
};

struct SampleGradients {
  Rows<const float> moments, noise, dy;
  Rows<float> dMoments;
  int half;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const auto gradient = load<V>(dy, row, c), z = load<V>(noise, row, c);
    for (int i = 0; i < V; ++i) {
      const float l = element(moments, row, half + c + i);
      element(dMoments, row, c + i) = gradient.v[i];
      element(dMoments, row, half + c + i) = isClamped(l) ? 0.0f : 0.5f * gradient.v[i] * z.v[i] * expf(0.5f * l);
    }
  }
};

// A block a sample; in double, since terms are small differences.
__global__ void __launch_bounds__(kThreads)
    gaussianKlKernel(Rows<const float> moments, Rows<float> kl, int pixels, int half) {
  const int n = blockIdx.x;
  double sum = 0;
  for (int64_t e = threadIdx.x; e < int64_t(pixels) * half; e += kThreads) {
    const int64_t row = int64_t(n) * pixels + e / half;
    const double mean = element(moments, row, e % half);
    const double l = clamped(element(moments, row, half + e % half));
    sum += 0.5 * (mean * mean + exp(l) - 1 - l);
  }
  sum = blockSum<kThreads>(sum);
  if (threadIdx.x == 0) element(kl, n, 0) = float(sum);
}

struct KlGradients {
  Rows<const float> moments, dKl;
  Rows<float> dMoments;
  int half;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const float scale = element(dKl, n, 0);
    for (int64_t i = c; i < c + V; ++i) {
      const float x = element(moments, row, i);
      const float slope = i < half ? x : isClamped(x) ? 0.0f : 0.5f * (expf(x) - 1.0f);
      element(dMoments, row, i) = scale * slope;
    }
  }
};

// A thread a pixel; all go through the codebook together, so that its rows come from the cache.
__global__ void __launch_bounds__(kThreads)
    nearestCodeKernel(Rows<const float> z, Rows<const float> codebook, Rows<int32_t> index, Rows<float> number,
                      int64_t rows, int channels, int codes) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  int nearest = 0;
  float least = INFINITY;
  for (int k = 0; k < codes; ++k) {
    float distance = 0;
    for (int c = 0; c < channels; ++c) {
      const float d = element(z, row, c) - element(codebook, k, c);
      distance += d * d;
    }
    if (distance < least) {
      least = distance;
      nearest = k;
    }
  }
  element(index, row, 0) = nearest;
  if (number) element(number, row, 0) = float(nearest);
}

}  // namespace

void run(CudaDevice& device, const GaussianSample& op, void*) {
  pointwise(device, bySample({&op.y, &op.moments, &op.noise}),
            Samples{in(op.moments), in(op.noise), out(op.y), op.y.c});
}

void run(CudaDevice& device, const GaussianSampleBackward& op, void*) {
  pointwise(device, bySample({&op.dy, &op.moments, &op.noise, &op.dMoments}),
            SampleGradients{in(op.moments), in(op.noise), in(op.dy), out(op.dMoments), op.dy.c});
}

void run(CudaDevice& device, const GaussianKl& op, void*) {
  launch<gaussianKlKernel>(unsigned(op.moments.n), kThreads, 0, device.stream(), in(op.moments), out(op.kl),
                           pixels(op.moments), op.moments.c / 2);
}

void run(CudaDevice& device, const GaussianKlBackward& op, void*) {
  pointwiseOf<1>(device, bySample({&op.dMoments, &op.moments}),
                 KlGradients{in(op.moments), in(op.dKl), out(op.dMoments), op.moments.c / 2});
}

void run(CudaDevice& device, const NearestCode& op, void*) {
  launch<nearestCodeKernel>(unsigned(ceilDiv(op.z.rows(), kThreads)), kThreads, 0, device.stream(), in(op.z),
                            in(op.codebook), rowsOf<int32_t>(op.index, DType::i32), out(op.number), op.z.rows(), op.z.c,
                            op.codebook.n);
}

}  // namespace ddpm::cuda
