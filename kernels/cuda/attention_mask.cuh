// The mask of attention (kernels/ops.h), for kernels that are compiled with and without.
#pragma once
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

struct NoMask {
  static constexpr bool kOn = false;
};

struct PairMask {
  static constexpr bool kOn = true;
  Rows<const float> rows;
  int queries, keys;
  bool shared;  // by all samples

  __device__ bool hides(int n, int query, int key) const {
    return query < queries && key < keys && element(rows, shared ? query : int64_t(n) * queries + query, key) == 0;
  }
  // What a pair weighs that is hidden: nothing, unless all of the query's are.
  __device__ float weight(float lse) const { return lse == kMaskedScore ? 1.0f / keys : 0.0f; }
};

inline PairMask maskOf(const Tensor& mask) { return {in(mask), pixels(mask), mask.c, mask.n == 1}; }

// f(mask) for the mask of an op, or for none.
template <class F>
void withMask(const Tensor& mask, const F& f) {
  if (mask)
    f(maskOf(mask));
  else
    f(NoMask{});
}

}  // namespace ddpm::cuda
