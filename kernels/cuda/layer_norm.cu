// Layer normalization (Ba et al. 2016) over the channels of each pixel, and without a mean RMSNorm: a warp a pixel.
//
// With u = (x - mean) rstd and du = dy gamma: dx = rstd (du - mean(du) - u mean(du u)); dgamma = sum dy u, dbeta = sum
// dy over all pixels (without a mean it is 0, and so is mean(du); where rstd is not of x, dx = rstd du), as sums over
// chunks [chunk][2][C] in scratch memory that then add up.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kWarps = 8;

__global__ void __launch_bounds__(32 * kWarps)
    normalizeKernel(FeatureMap x, Rows<const float> gamma, Rows<const float> beta, FeatureMap y, Rows<float> mean,
                    Rows<float> rstd, int64_t rows, int channels, float eps) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows) return;  // the whole warp
  float sum = 0;
  for (int c = threadIdx.x; c < channels; c += 32) sum += number(x, row, c);
  const float mu = warpSum(sum) / float(channels);
  float squares = 0;
  for (int c = threadIdx.x; c < channels; c += 32) {
    const float d = number(x, row, c) - mu;
    squares += d * d;
  }
  const float r = 1.0f / sqrtf(warpSum(squares) / float(channels) + eps);
  if (threadIdx.x == 0) {
    element(mean, row, 0) = mu;
    element(rstd, row, 0) = r;
  }
  for (int c = threadIdx.x; c < channels; c += 32)
    store<1>(y, row, c, {{(number(x, row, c) - mu) * r * element(gamma, 0, c) + element(beta, 0, c)}});
}

__global__ void __launch_bounds__(32 * kWarps)
    rootMeanSquareKernel(FeatureMap x, Rows<const float> gamma, FeatureMap y, Rows<float> rstd, int64_t rows,
                         int channels, float eps) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows) return;  // the whole warp
  float squares = 0;
  for (int c = threadIdx.x; c < channels; c += 32) {
    const float v = number(x, row, c);
    squares += v * v;
  }
  const float r = sqrtf(float(channels)) / fmaxf(sqrtf(warpSum(squares)), eps);
  if (threadIdx.x == 0) element(rstd, row, 0) = r;
  for (int c = threadIdx.x; c < channels; c += 32)
    store<1>(y, row, c, {{number(x, row, c) * r * element(gamma, 0, c)}});
}

__global__ void __launch_bounds__(32 * kWarps)
    inputGradientKernel(FeatureMap x, Rows<const float> gamma, Rows<const float> mean, Rows<const float> rstd,
                        FeatureMap dy, FeatureMap dx, int64_t rows, int channels, float eps) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows) return;  // the whole warp
  const float mu = mean ? element(mean, row, 0) : 0.0f, r = element(rstd, row, 0);
  float sum1 = 0, sum2 = 0;
  for (int c = threadIdx.x; c < channels; c += 32) {
    const float du = number(dy, row, c) * element(gamma, 0, c);
    sum1 += du;
    sum2 += du * ((number(x, row, c) - mu) * r);
  }
  const bool free = !mean && r >= sqrtf(float(channels)) / eps;
  sum1 = warpSum(sum1);
  sum2 = warpSum(sum2);
  const float p = mean ? sum1 / float(channels) : 0.0f, q = free ? 0.0f : sum2 / float(channels);
  for (int c = threadIdx.x; c < channels; c += 32) {
    const float u = (number(x, row, c) - mu) * r;
    store<1>(dx, row, c, {{r * (number(dy, row, c) * element(gamma, 0, c) - p - u * q)}});
  }
}

struct ParameterSums {
  FeatureMap x, dy;
  Rows<const float> mean, rstd;
  Global<float> partial;  // [chunk][2][C]
  int channels;
  struct Column {
    FeatureMap x, dy;
    Rows<const float> mean, rstd;
    int c;
    __device__ void add(int64_t row, Vec<float, 2>& sums) const {
      const float g = number(dy, row, c);
      const float mu = mean ? element(mean, row, 0) : 0.0f;
      sums.v[0] += g * ((number(x, row, c) - mu) * element(rstd, row, 0));
      sums.v[1] += g;
    }
  };
  __device__ Column column(int, int c) const { return {x, dy, mean, rstd, c}; }
  __device__ void write(int, int chunk, int c, const Vec<float, 2>& sums) const {
    partial[int64_t(chunk) * 2 * channels + c] = sums.v[0];
    partial[(int64_t(chunk) * 2 + 1) * channels + c] = sums.v[1];
  }
};

unsigned blocksOf(const Tensor& x) { return unsigned(ceilDiv(x.rows(), kWarps)); }

}  // namespace

void run(CudaDevice& device, const LayerNorm& op, void*) {
  if (!op.mean) {
    launch<rootMeanSquareKernel>(blocksOf(op.x), dim3(32, kWarps), 0, device.stream(), featureMap(op.x), in(op.gamma),
                                 featureMap(op.y), out(op.rstd), op.x.rows(), op.x.c, op.eps);
    return;
  }
  launch<normalizeKernel>(blocksOf(op.x), dim3(32, kWarps), 0, device.stream(), featureMap(op.x), in(op.gamma),
                          in(op.beta), featureMap(op.y), out(op.mean), out(op.rstd), op.x.rows(), op.x.c, op.eps);
}

size_t scratch(const CudaDevice&, const LayerNormBackward& op) {
  return size_t(columnChunks(op.x.rows())) * 2 * size_t(op.x.c) * sizeof(float);
}

void run(CudaDevice& device, const LayerNormBackward& op, void* scratch) {
  const Tensor& x = op.x;
  const int chunks = columnChunks(x.rows());
  const Global<float> partial = scratchOf<float>(scratch, 0, int64_t(chunks) * 2 * x.c);
  // Before dx, which may take the place of dy.
  columnSums<2>(device, ParameterSums{featureMap(x), featureMap(op.dy), in(op.mean), in(op.rstd), partial, x.c}, 1,
                x.rows(), x.c, chunks);
  if (op.dBeta)
    accumulatePairs(device, partial, out(op.dGamma).data, out(op.dBeta).data, x.c, chunks);
  else
    accumulate(device, partial, out(op.dGamma).data, x.c, 2 * int64_t(x.c), chunks);
  launch<inputGradientKernel>(blocksOf(x), dim3(32, kWarps), 0, device.stream(), featureMap(x), in(op.gamma),
                              in(op.mean), in(op.rstd), featureMap(op.dy), featureMap(op.dx), x.rows(), x.c, op.eps);
}

}  // namespace ddpm::cuda
