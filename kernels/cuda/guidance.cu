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

// A block a sample, bit by bit from the highest: absolute values are ordered as their bits are, so that v[rank] is the
// greatest number below which there are no more than `rank` of them. Here for two ranks at once, counted in the halves
// of one sum.
__global__ void __launch_bounds__(kThreads)
    quantileKernel(Rows<const float> x, Rows<float> y, int size, int rank, float part, float least, float most) {
  const int n = blockIdx.x;
  const int nextRank = part > 0 ? rank + 1 : rank;
  int low = 0, high = 0;
  for (int bit = 1 << 30; bit > 0; bit >>= 1) {
    int64_t below = 0;
    for (int i = threadIdx.x; i < size; i += kThreads) {
      const int key = bitsOf(element(x, n, i)) & 0x7FFFFFFF;
      below += int64_t(key < (low | bit)) + (int64_t(key < (high | bit)) << 32);
    }
    below = blockSum<kThreads>(below);
    if (int(below & 0xFFFFFFFF) <= rank) low |= bit;
    if (int(below >> 32) <= nextRank) high |= bit;
  }
  if (threadIdx.x != 0) return;
  const float from = floatOf(low);
  const float value = part > 0 ? from + part * (floatOf(high) - from) : from;
  element(y, n, 0) = value < least ? least : value > most ? most : value;
}

}  // namespace

void run(CudaDevice& device, const AbsQuantile& op, void*) {
  launch<quantileKernel>(unsigned(op.x.n), kThreads, 0, device.stream(), in(op.x), out(op.y), op.x.c, op.rank, op.part,
                         op.least, op.most);
}

void run(CudaDevice& device, const RescaleGuidance& op, void*) {
  launch<rescaleKernel>(unsigned(op.x.n), kThreads, 0, device.stream(), in(op.x), in(op.reference), out(op.y), op.x.c,
                        op.amount);
}

}  // namespace ddpm::cuda
