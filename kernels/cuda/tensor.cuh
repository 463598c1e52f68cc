// Tensors as kernels see them, and the grid of elementwise kernels.
#pragma once
#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/ptx.cuh"

namespace ddpm::cuda {

// The pixels of a tensor: row r starts at element r * ld. Absent when data is.
template <class T>
struct Rows {
  Global<T> data;
  int32_t ld = 0;
  __host__ __device__ explicit operator bool() const { return bool(data); }
};

template <class T>
Rows<T> rowsOf(const Tensor& t, DType dtype) {
  Rows<T> rows;
  if (!t) return rows;
  if (t.dtype != dtype) throw BackendError(ErrorCode::unsupported, "the CUDA backend computes this op in 32 bits only");
  const int64_t size = t.rows() ? (t.rows() - 1) * t.ld + t.c : 0;
  rows.data = Global<T>(static_cast<T*>(t.data), size);
  rows.ld = t.ld;
  return rows;
}
inline Rows<const float> in(const Tensor& t) { return rowsOf<const float>(t, DType::f32); }
inline Rows<float> out(const Tensor& t) { return rowsOf<float>(t, DType::f32); }
inline Rows<const int32_t> indices(const Tensor& t) { return rowsOf<const int32_t>(t, DType::i32); }

template <class T>
Global<T> scratchOf(void* scratch, int64_t offset, int64_t size) {
  return Global<T>(static_cast<T*>(scratch) + offset, size);
}

template <int V, class T>
__device__ __forceinline__ auto load(const Rows<T>& rows, int64_t row, int64_t c) {
  return load<V>(rows.data, row * rows.ld + c);
}
template <int V>
__device__ __forceinline__ void store(const Rows<float>& rows, int64_t row, int64_t c, const Vec<float, V>& pack) {
  store(rows.data, row * rows.ld + c, pack);
}
template <class T>
__device__ __forceinline__ T& element(const Rows<T>& rows, int64_t row, int64_t c) {
  return rows.data[row * rows.ld + c];
}

// The row of a table that a sample picks, clamped to the table (ops.h, Tables).
struct RowIndex {
  Rows<const int32_t> index;
  int32_t last;
  __device__ __forceinline__ int operator()(int64_t n) const {
    const int i = element(index, n, 0);
    return i < 0 ? 0 : i < last ? i : last;
  }
};
inline RowIndex rowIndex(const Tensor& index, const Tensor& table) { return {indices(index), table.n - 1}; }

// The pixels of a tensor that is f32 or narrow (ops.h, Precision). Numbers are floats once they are loaded; which
// it is, is the same for all threads of a kernel, so that asking costs next to nothing beside the access.
struct FeatureMap {
  Global<float> wide = {};
  Global<uint16_t> narrow = {};
  int32_t ld = 0;
  DType dtype = DType::f32;
  __host__ __device__ explicit operator bool() const { return bool(wide) || bool(narrow); }
};

inline FeatureMap featureMap(const Tensor& t) {
  FeatureMap map;
  if (!t) return map;
  if (t.dtype == DType::i32) throw BackendError(ErrorCode::internal, "a feature map of integers");
  const int64_t size = t.rows() ? (t.rows() - 1) * t.ld + t.c : 0;
  if (t.dtype == DType::f32)
    map.wide = Global<float>(t.f32(), size);
  else
    map.narrow = Global<uint16_t>(static_cast<uint16_t*>(t.data), size);
  map.ld = t.ld;
  map.dtype = t.dtype;
  return map;
}

// V numbers of a narrow format as floats, and back, rounded to nearest even.
template <class Format, int V>
__device__ __forceinline__ Vec<float, V> widen(const Vec<uint16_t, V>& bits) {
  Vec<float, V> values;
  if constexpr (V == 1) {
    values.v[0] = unpack<Format>(bits.v[0]).v[0];
  } else {
    for (int i = 0; i < V / 2; ++i) {
      const Vec<float, 2> pair = unpack<Format>(bits.v[2 * i] | uint32_t(bits.v[2 * i + 1]) << 16);
      values.v[2 * i] = pair.v[0];
      values.v[2 * i + 1] = pair.v[1];
    }
  }
  return values;
}
template <class Format, int V>
__device__ __forceinline__ Vec<uint16_t, V> narrowed(const Vec<float, V>& values) {
  Vec<uint16_t, V> bits;
  if constexpr (V == 1) {
    bits.v[0] = uint16_t(pack<Format>(values.v[0], 0.0f));
  } else {
    for (int i = 0; i < V / 2; ++i) {
      const uint32_t word = pack<Format>(values.v[2 * i], values.v[2 * i + 1]);
      bits.v[2 * i] = uint16_t(word);
      bits.v[2 * i + 1] = uint16_t(word >> 16);
    }
  }
  return bits;
}

template <int V>
__device__ __forceinline__ Vec<float, V> load(const FeatureMap& map, int64_t row, int64_t c) {
  const int64_t i = row * map.ld + c;
  if (map.dtype == DType::f32) return load<V>(map.wide, i);
  const Vec<uint16_t, V> bits = load<V>(map.narrow, i);
  return map.dtype == DType::f16 ? widen<Half>(bits) : widen<Bfloat16>(bits);
}
template <int V>
__device__ __forceinline__ void store(const FeatureMap& map, int64_t row, int64_t c, const Vec<float, V>& values) {
  const int64_t i = row * map.ld + c;
  if (map.dtype == DType::f32)
    store(map.wide, i, values);
  else
    store(map.narrow, i, map.dtype == DType::f16 ? narrowed<Half>(values) : narrowed<Bfloat16>(values));
}
__device__ __forceinline__ float number(const FeatureMap& map, int64_t row, int64_t c) {
  return load<1>(map, row, c).v[0];
}

inline int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int pixels(const Tensor& t) { return t.h * t.w; }

// ---------------------------------------------------------------------------------------------------------------------
// Elementwise kernels: a functor with `template <int V> __device__ void run(int n, int64_t row, int64_t c) const`,
// called for each V neighbouring channels of each pixel, row counting through all samples. One with feature
// maps says `static constexpr bool kMixed = true`.

struct Extent {
  int32_t n;        // samples
  int64_t rows, c;  // pixels a sample, channels
  int width;        // V: 4, or 8 with narrow tensors, where every row can be read by aligned 16-byte loads, else 1
};

inline int vectorWidth(std::initializer_list<const Tensor*> tensors) {
  int width = 4;
  for (const Tensor* t : tensors)
    if (*t && sizeOf(t->dtype) == 2) width = 8;
  return width;
}

// All tensors of an op, its output first; absent ones do not count. For functors that look at the sample.
inline Extent bySample(std::initializer_list<const Tensor*> tensors) {
  const Tensor& y = **tensors.begin();
  const int width = vectorWidth(tensors);
  Extent extent = {y.n, pixels(y), y.c, width};
  for (const Tensor* t : tensors)
    if (*t && (uintptr_t(t->data) % 16 || t->c % width || (t->ld % width && t->rows() > 1))) extent.width = 1;
  return extent;
}

// For functors that look at neither sample nor channel: where all tensors are dense, one long row.
inline Extent flat(std::initializer_list<const Tensor*> tensors) {
  Extent extent = bySample(tensors);
  extent.rows *= extent.n;
  extent.n = 1;
  for (const Tensor* t : tensors)
    if (*t && !t->dense()) return extent;
  extent.c *= extent.rows;
  extent.rows = extent.rows ? 1 : 0;
  const int width = vectorWidth(tensors);
  extent.width = extent.c % width ? 1 : width;
  for (const Tensor* t : tensors)
    if (uintptr_t(t->data) % 16) extent.width = 1;
  return extent;
}

constexpr int kPointwiseThreads = 256;

template <int V, class F>
__global__ void __launch_bounds__(kPointwiseThreads, 2) pointwiseKernel(F f, Extent extent) {
  for (int n = blockIdx.z; n < extent.n; n += gridDim.z)
    for (int64_t row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; row < extent.rows; row += gridDim.y * blockDim.y)
      for (int64_t c = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * V; c < extent.c;
           c += int64_t(gridDim.x) * blockDim.x * V)
        f.template run<V>(n, n * extent.rows + row, c);
}

template <int V, class F>
void pointwiseOf(CudaDevice& device, const Extent& extent, const F& f) {
  if (extent.n == 0 || extent.rows == 0 || extent.c == 0) return;
  const int64_t vectors = ceilDiv(extent.c, V);
  unsigned x = 1;  // threads along the channels
  while (x < vectors && x < kPointwiseThreads) x *= 2;
  const dim3 block(x, kPointwiseThreads / x);
  const dim3 grid(unsigned(std::min<int64_t>(ceilDiv(vectors, x), 1 << 20)),
                  unsigned(std::min<int64_t>(ceilDiv(extent.rows, block.y), 65535)),
                  unsigned(std::min<int64_t>(extent.n, 65535)));
  launch<pointwiseKernel<V, F>>(grid, block, 0, device.stream(), f, extent);
}

template <class F>
void pointwise(CudaDevice& device, const Extent& extent, const F& f) {
  if constexpr (requires { F::kMixed; })
    if (extent.width == 8) return pointwiseOf<8>(device, extent, f);
  if (extent.width == 4)
    pointwiseOf<4>(device, extent, f);
  else
    pointwiseOf<1>(device, extent, f);
}

// One number a sample: f.run<1>(n, n, 0).
template <class F>
void forEachSample(CudaDevice& device, int samples, const F& f) {
  pointwiseOf<1>(device, Extent{1, samples, 1, 1}, f);
}

}  // namespace ddpm::cuda
