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

void accumulate(CudaDevice& device, Global<const float> x, Global<float> y, int64_t size, int64_t stride, int count) {
  launch<accumulateKernel>(unsigned(ceilDiv(size, 256)), 256, 0, device.stream(), x, y, size, stride, count);
}

}  // namespace ddpm::cuda
