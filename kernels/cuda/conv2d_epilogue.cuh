// What is done to the sums of a convolution before they are stored.
#pragma once
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

// Whether all rows of the tensors can be read and written eight channels at a time; absent ones do not count.
inline bool inEights(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors)
    if (*t && (uintptr_t(t->data) % 16 || t->c % 8 || (t->rows() > 1 && size_t(t->ld) * sizeOf(t->dtype) % 16)))
      return false;
  return true;
}

// y = sum + bias? + sampleBias? + residual?, by row of the whole result and channel.
struct Epilogue {
  FeatureMap y, residual;
  Rows<const float> bias, sampleBias;
  int area;  // pixels a sample; with a sampleBias, rows are below 2^31
  bool eights;

  Epilogue(const Tensor& y, const Tensor& bias, const Tensor& sampleBias, const Tensor& residual)
      : y(featureMap(y)),
        residual(featureMap(residual)),
        bias(in(bias)),
        sampleBias(in(sampleBias)),
        area(pixels(y)),
        eights(inEights({&y, &bias, &sampleBias, &residual})) {}

  // What is added to a sum: bias? + sampleBias? + residual?.
  template <int V>
  __device__ __forceinline__ Vec<float, V> added(int64_t row, int k) const {
    Vec<float, V> all = {};
    if (bias) add(all, load<V>(bias, 0, k));
    if (sampleBias) add(all, load<V>(sampleBias, unsigned(row) / unsigned(area), k));
    if (residual) add(all, load<V>(residual, row, k));
    return all;
  }

  template <int V>
  __device__ __forceinline__ void write(int64_t row, int k, Vec<float, V> sum) const {
    add(sum, added<V>(row, k));
    store<V>(y, row, k, sum);
  }

  template <int V>
  __device__ static void add(Vec<float, V>& to, const Vec<float, V>& from) {
#pragma unroll
    for (int i = 0; i < V; ++i) to.v[i] += from.v[i];
  }
};

// Sums that are computed in parts: each part is a tensor of f32 like the result, one after the other in scratch memory.
// They are added up in order.
struct AddParts {
  Global<const float> parts;
  Epilogue epilogue;
  int64_t rows;
  int channels, count;

  template <int V>
  __device__ void run(int, int64_t row, int64_t k) const {
    Vec<float, V> sum = {};
    for (int i = 0; i < count; ++i) Epilogue::add(sum, load<V>(parts, (i * rows + row) * channels + k));
    epilogue.write(row, int(k), sum);
  }
};

}  // namespace ddpm::cuda
