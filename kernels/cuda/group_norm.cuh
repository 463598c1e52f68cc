// Group normalization: what its two ways have in common. group_norm_strip.cu goes over memory once, where a few groups
// of a sample fit in a block's shared memory; group_norm.cu twice, for every other shape.
#pragma once
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {

// v = a (x - mean) + b, a = rstd gamma (1 + scale), b = beta (1 + scale) + shift, for channel c of sample n.
struct Affine {
  Rows<const float> gamma, beta, scale, shift;
  __device__ float onePlusScale(int n, int c) const { return scale ? 1.0f + element(scale, n, c) : 1.0f; }
  __device__ float offset(int n, int c) const {
    return element(beta, 0, c) * onePlusScale(n, c) + (shift ? element(shift, n, c) : 0.0f);
  }
};
template <class Op>
Affine affineOf(const Op& op) {
  return {in(op.gamma), in(op.beta), in(op.scale), in(op.shift)};
}

// Each returns false, and does nothing, where the groups do not fit. parameterSums: [n][2][C], the samples' shares of
// dgamma and of dbeta.
bool normalizeStrips(CudaDevice& device, const GroupNorm& op);
bool differentiateStrips(CudaDevice& device, const GroupNormBackward& op, Global<float> parameterSums);

}  // namespace ddpm::cuda
