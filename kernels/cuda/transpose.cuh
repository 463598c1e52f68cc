// Transposition of many matrices at once.
#pragma once
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

// Where element (n, i, j) of a set of matrices lies: n * sample + i * row + j.
struct Matrices {
  int64_t sample, row;
};

// to(n, j, i) = from(n, i, j) for n < samples, i < rows, j < columns.
void transpose(CudaDevice& device, Global<const float> from, Matrices fromAt, const FeatureMap& to, Matrices toAt,
               int samples, int rows, int columns);
inline void transpose(CudaDevice& device, Global<const float> from, Matrices fromAt, Global<float> to, Matrices toAt,
                      int samples, int rows, int columns) {
  transpose(device, from, fromAt, FeatureMap{.wide = to}, toAt, samples, rows, columns);
}

}  // namespace ddpm::cuda
