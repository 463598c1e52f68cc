// What guided sampling does with predictions.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;

// Over a sample, for every thread of the block; in double, around the mean.
__device__ __forceinline__ double deviation(const Rows<const float>& x, int n, int size) {
  double sum = 0, squares = 0;
  for (int i = threadIdx.x; i < size; i += kThreads) sum += element(x, n, i);
  const double mean = blockSum<kThreads>(sum) / size;
  for (int i = threadIdx.x; i < size; i += kThreads) {
    const double d = element(x, n, i) - mean;
    squares += d * d;
  }
  return sqrt(blockSum<kThreads>(squares) / size);
}

// A block a sample. y may be x: a thread writes what it alone reads, after all have read for the deviation.
__global__ void __launch_bounds__(kThreads)
    rescaleKernel(Rows<const float> x, Rows<const float> reference, Rows<float> y, int size, float amount) {
  const int n = blockIdx.x;
  const double own = deviation(x, n, size), wanted = deviation(reference, n, size);
  const double ratio = own == 0 ? 1 : wanted / own;
  const float factor = float(1 - amount + amount * ratio);
  for (int i = threadIdx.x; i < size; i += kThreads) element(y, n, i) = element(x, n, i) * factor;
}

}  // namespace

void run(CudaDevice& device, const RescaleGuidance& op, void*) {
  launch<rescaleKernel>(unsigned(op.x.n), kThreads, 0, device.stream(), in(op.x), in(op.reference), out(op.y), op.x.c,
                        op.amount);
}

}  // namespace ddpm::cuda
