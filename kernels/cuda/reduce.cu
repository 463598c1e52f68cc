#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {

__global__ void __launch_bounds__(256)
    accumulateKernel(Global<const float> x, Global<float> y, int64_t size, int64_t stride, int count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = y[i];
  for (int j = 0; j < count; ++j) sum += x[j * stride + i];
  y[i] = sum;
}

// Few columns, whose time is that of the way to memory: the warps of a block ask for many rows at once, and one of them
// adds these up in order.
constexpr int kPairWarps = 8, kPairRows = 128;

__global__ void __launch_bounds__(32 * kPairWarps)
    accumulatePairsKernel(Global<const float> x, Global<float> first, Global<float> second, int channels, int count) {
  DDPM_SHARED(float, rows, kPairRows * 32);
  const int lane = threadIdx.x, warp = threadIdx.y, columns = 2 * channels;
  const int i = blockIdx.x * 32 + lane;
  const bool loads = i < columns, adds = loads && warp == 0;
  float sum = adds ? (i < channels ? first[i] : second[i - channels]) : 0.0f;
  for (int from = 0; from < count; from += kPairRows) {
    const int here = min(count - from, kPairRows);
#pragma unroll
    for (int j = 0; j < kPairRows; j += kPairWarps)
      if (loads && j + warp < here) rows[(j + warp) * 32 + lane] = x[int64_t(from + j + warp) * columns + i];
    __syncthreads();
    for (int j = 0; adds && j < here; ++j) sum += rows[j * 32 + lane];
    __syncthreads();
  }
  if (!adds) return;
  if (i < channels)
    first[i] = sum;
  else
    second[i - channels] = sum;
}

void accumulatePairs(CudaDevice& device, Global<const float> x, Global<float> first, Global<float> second, int channels,
                     int count) {
  launch<accumulatePairsKernel>(unsigned(ceilDiv(2 * int64_t(channels), 32)), dim3(32, kPairWarps), 0, device.stream(),
                                x, first, second, channels, count);
}

void accumulate(CudaDevice& device, Global<const float> x, Global<float> y, int64_t size, int64_t stride, int count) {
  launch<accumulateKernel>(unsigned(ceilDiv(size, 256)), 256, 0, device.stream(), x, y, size, stride, count);
}

}  // namespace ddpm::cuda
