// Samples as flat CHW <-> NHWC: a transposition of C by H*W in each sample, by way of 32 x 32 tiles in shared memory so
// that reads and writes are both of neighbouring addresses.
#include "kernels/cuda/transpose.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kTile = 32, kTileRows = 8;

__global__ void __launch_bounds__(kTile* kTileRows, 4)
    transposeKernel(Global<const float> from, Matrices f, FeatureMap to, Matrices t, int rows, int columns) {
  DDPM_SHARED(float, tile, kTile*(kTile + 1));  // the extra column spreads a column over the banks
  const int n = blockIdx.z;
  const int64_t left = int64_t(blockIdx.x) * kTile, top = int64_t(blockIdx.y) * kTile;
  for (int i = threadIdx.y; i < kTile; i += kTileRows)
    if (top + i < rows && left + threadIdx.x < columns)
      tile[i * (kTile + 1) + threadIdx.x] = from[n * f.sample + (top + i) * f.row + left + threadIdx.x];
  __syncthreads();
  for (int j = threadIdx.y; j < kTile; j += kTileRows)
    if (left + j < columns && top + threadIdx.x < rows)
      store<1>(to, 0, n * t.sample + (left + j) * t.row + top + threadIdx.x, {{tile[threadIdx.x * (kTile + 1) + j]}});
}

}  // namespace

void transpose(CudaDevice& device, Global<const float> from, Matrices fromAt, const FeatureMap& to, Matrices toAt,
               int samples, int rows, int columns) {
  const dim3 grid(unsigned(ceilDiv(columns, kTile)), unsigned(ceilDiv(rows, kTile)), unsigned(samples));
  launch<transposeKernel>(grid, dim3(kTile, kTileRows), 0, device.stream(), from, fromAt, to, toAt, rows, columns);
}

void run(CudaDevice& device, const ToNhwc& op, void*) {
  const Tensor& y = op.y;
  const int area = pixels(y);
  transpose(device, in(op.x).data, {op.x.ld, area}, featureMap(y), {int64_t(area) * y.ld, y.ld}, y.n, y.c, area);
}

void run(CudaDevice& device, const ToNchw& op, void*) {
  const Tensor& x = op.x;
  const int area = pixels(x);
  transpose(device, in(x).data, {int64_t(area) * x.ld, x.ld}, out(op.y).data, {op.y.ld, area}, x.n, area, x.c);
}

}  // namespace ddpm::cuda
