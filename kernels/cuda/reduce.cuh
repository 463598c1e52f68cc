// Sums whose order does not depend on the batch, the device or chance: no atomics.
#pragma once
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

// Every lane gets the sum over the warp. All 32 lanes must call it.
template <class T>
__device__ __forceinline__ T warpSum(T x) {
  for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(~0u, x, bits);
  return x;
}

// Every thread gets the sum over a one-dimensional block of `Threads` (a multiple of 32).
template <int Threads, class T>
__device__ __forceinline__ T blockSum(T x) {
  DDPM_SHARED(T, partial, Threads / 32);
  x = warpSum(x);
  __syncthreads();  // of an earlier call, all have read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < Threads / 32; ++i) sum += T(partial[i]);
  return sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums down the columns (channels) of a matrix of pixels, K at a time, of each sample, cut into chunks of rows:
//
//     auto column = f.column(n, c);                    what the column needs, looked up once
//     column.add(row, sums);                           for each row of the chunk, row counting through all samples
//     f.write(n, chunk, c, sums);
//
// A block does 32 columns; its 8 warps take every eighth row, so that a warp reads 128 neighbouring bytes.

constexpr int kColumnWarps = 8;

template <int K, class F>
__global__ void __launch_bounds__(32 * kColumnWarps) columnSumsKernel(F f, int64_t rows, int c, int64_t rowsPerChunk) {
  DDPM_SHARED(float, partial, kColumnWarps* K * 32);
  const int lane = threadIdx.x, part = threadIdx.y;
  const int column = blockIdx.x * 32 + lane, chunk = blockIdx.y, n = blockIdx.z;
  Vec<float, K> sums;
  for (int k = 0; k < K; ++k) sums.v[k] = 0;
  if (column < c) {
    auto state = f.column(n, column);
    const int64_t first = chunk * rowsPerChunk, last = min(first + rowsPerChunk, rows);
    for (int64_t row = first + part; row < last; row += kColumnWarps) state.add(n * rows + row, sums);
  }
  for (int k = 0; k < K; ++k) partial[(part * K + k) * 32 + lane] = sums.v[k];
  __syncthreads();
  if (part != 0 || column >= c) return;
  for (int k = 0; k < K; ++k) {
    float sum = 0;
    for (int i = 0; i < kColumnWarps; ++i) sum += partial[(i * K + k) * 32 + lane];
    sums.v[k] = sum;
  }
  f.write(n, chunk, column, sums);
}

// Chunks that a sample of `rows` pixels is cut into.
inline int columnChunks(int64_t rows) { return int(std::min<int64_t>(ceilDiv(rows, 128), 64)); }

template <int K, class F>
void columnSums(CudaDevice& device, const F& f, int samples, int64_t rows, int c, int chunks) {
  if (rows == 0) chunks = 1;  // sums of nothing are written too
  const dim3 grid(unsigned(ceilDiv(c, 32)), unsigned(chunks), unsigned(samples));
  launch<columnSumsKernel<K, F>>(grid, dim3(32, kColumnWarps), 0, device.stream(), f, rows, c, ceilDiv(rows, chunks));
}

// first[c] += sum over `count` of x[j][0][c], second[c] += of x[j][1][c], c < channels; in the order of j.
void accumulatePairs(CudaDevice& device, Global<const float> x, Global<float> first, Global<float> second, int channels,
                     int count);

// y[i] += sum over `count` of x[j * stride + i], i < size.
void accumulate(CudaDevice& device, Global<const float> x, Global<float> y, int64_t size, int64_t stride, int count);

}  // namespace ddpm::cuda
