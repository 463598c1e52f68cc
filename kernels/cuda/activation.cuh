// The activations and their derivatives, for every kernel that fuses one.
#pragma once
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float siluDerivative(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

__device__ __forceinline__ float relu(float x) { return 0.0f > x ? 0.0f : x; }  // NaN stays
__device__ __forceinline__ float reluDerivative(float x) { return x > 0.0f ? 1.0f : 0.0f; }

// erfc keeps the digits of the left tail, where 1 + erf would lose them.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }
__device__ __forceinline__ float geluDerivative(float x) {
  return 0.5f * erfcf(-0.70710678f * x) + x * (0.39894228f * expf(-0.5f * x * x));
}

// 1 - tanh^2 would lose the digits of its tails.
__device__ __forceinline__ float tanhDerivative(float x) { return 4.0f * sigmoid(2.0f * x) * sigmoid(-2.0f * x); }

}  // namespace ddpm::cuda
