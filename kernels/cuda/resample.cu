// Nearest upsampling, pooling, filters that resample, bilinear resizing. All are gathers: an output pixel is made of
// one pixel or of a window.
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {
namespace {

struct Size {
  int h, w;
};
inline Size sizeOf(const Tensor& t) { return {t.h, t.w}; }

struct Pixel {
  int h, w;
};
__device__ __forceinline__ Pixel pixelOf(int n, int64_t row, Size size) {
  const int p = int(row - int64_t(n) * size.h * size.w);
  return {p / size.w, p % size.w};
}
__device__ __forceinline__ int64_t rowOf(int n, int h, int w, Size size) {
  return (int64_t(n) * size.h + h) * size.w + w;
}

// y[n,h,w] = scale * x[n, h/factor, w/factor], or 0 where x ends before.
struct Spread {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Size from, to;
  int factor;
  float scale;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const Pixel p = pixelOf(n, row, to);
    const int h = p.h / factor, w = p.w / factor;
    Vec<float, V> value;
    for (int i = 0; i < V; ++i) value.v[i] = 0;
    if (h < from.h && w < from.w) {
      value = load<V>(x, rowOf(n, h, w, from), c);
      for (int i = 0; i < V; ++i) value.v[i] *= scale;
    }
    store<V>(y, row, c, value);
  }
};

// y[n,h,w] = scale * sum over the factor x factor window of x at (h*factor, w*factor)
struct Gather {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Size from, to;
  int factor;
  float scale;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const Pixel p = pixelOf(n, row, to);
    Vec<float, V> sum;
    for (int i = 0; i < V; ++i) sum.v[i] = 0;
    for (int r = 0; r < factor; ++r)
      for (int s = 0; s < factor; ++s) {
        const auto value = load<V>(x, rowOf(n, p.h * factor + r, p.w * factor + s, from), c);
        for (int i = 0; i < V; ++i) sum.v[i] += value.v[i];
      }
    for (int i = 0; i < V; ++i) sum.v[i] *= scale;
    store<V>(y, row, c, sum);
  }
};

// The pixels of a pool's window that x has: merged one after the other.
template <PoolType type>
struct Window {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Size from, to;
  int kernel, stride, top, left;
  static __device__ __forceinline__ float merge(float a, float b) {
    if (type == PoolType::mean) return a + b;
    return b > a || b != b ? b : a;
  }
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const Pixel p = pixelOf(n, row, to);
    const int h = p.h * stride - top, w = p.w * stride - left;
    const int firstRow = h < 0 ? 0 : h, endRow = from.h - h < kernel ? from.h : h + kernel;
    const int firstColumn = w < 0 ? 0 : w, endColumn = from.w - w < kernel ? from.w : w + kernel;
    auto all = load<V>(x, rowOf(n, firstRow, firstColumn, from), c);
    int first = firstColumn + 1;
    for (int i = firstRow; i < endRow; ++i, first = firstColumn)
      for (int j = first; j < endColumn; ++j) {
        const auto value = load<V>(x, rowOf(n, i, j, from), c);
        for (int k = 0; k < V; ++k) all.v[k] = merge(all.v[k], value.v[k]);
      }
    if (type == PoolType::mean) {
      const float scale = 1.0f / float((endRow - firstRow) * (endColumn - firstColumn));
      for (int k = 0; k < V; ++k) all.v[k] *= scale;
    }
    store<V>(y, row, c, all);
  }
};

// The two pixels of x that place p of y lies between, along one side, and the weight of the second.
struct Between {
  int first, second;
  float weight;
};
__device__ __forceinline__ Between between(int p, int size, int outSize) {
  const int64_t twice = 2 * int64_t(outSize), place = (2 * int64_t(p) + 1) * size - outSize;  // in 1/twice pixels
  const int first = place < 0 ? 0 : int(place / twice);
  return {first, first + 1 < size ? first + 1 : first, place < 0 ? 0.0f : float(place % twice) / float(twice)};
}

struct Bilinear {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Size from, to;
  template <int V>
  __device__ Vec<float, V> onLine(int n, int h, const Between& columns, int64_t c) const {
    auto line = load<V>(x, rowOf(n, h, columns.first, from), c);
    const auto second = load<V>(x, rowOf(n, h, columns.second, from), c);
    for (int i = 0; i < V; ++i) line.v[i] = line.v[i] * (1 - columns.weight) + second.v[i] * columns.weight;
    return line;
  }
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const Pixel p = pixelOf(n, row, to);
    const Between rows = between(p.h, from.h, to.h), columns = between(p.w, from.w, to.w);
    auto value = onLine<V>(n, rows.first, columns, c);
    const auto second = onLine<V>(n, rows.second, columns, c);
    for (int i = 0; i < V; ++i) value.v[i] = value.v[i] * (1 - rows.weight) + second.v[i] * rows.weight;
    store<V>(y, row, c, value);
  }
};

struct Fir {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Size from, to;
  int up, down, top, left, count;
  float taps[kMaxFirTaps];
  // The pixel of x at this place of z, or -1.
  __device__ int source(int place, int size) const {
    return place < 0 || place % up || place / up >= size ? -1 : place / up;
  }
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const Pixel p = pixelOf(n, row, to);
    Vec<float, V> sum;
    for (int i = 0; i < V; ++i) sum.v[i] = 0;
    for (int r = 0; r < count; ++r) {
      const int h = source(p.h * down + r - top, from.h);
      if (h < 0) continue;
      for (int s = 0; s < count; ++s) {
        const int w = source(p.w * down + s - left, from.w);
        if (w < 0) continue;
        const auto value = load<V>(x, rowOf(n, h, w, from), c);
        const float tap = taps[r] * taps[s];
        for (int i = 0; i < V; ++i) sum.v[i] += value.v[i] * tap;
      }
    }
    store<V>(y, row, c, sum);
  }
};

}  // namespace

void run(CudaDevice& device, const FirResample& op, void*) {
  Fir f;
  f.x = featureMap(op.x);
  f.y = featureMap(op.y);
  f.from = sizeOf(op.x);
  f.to = sizeOf(op.y);
  f.up = op.up;
  f.down = op.down;
  f.top = op.top;
  f.left = op.left;
  f.count = op.count;
  for (int r = 0; r < kMaxFirTaps; ++r) f.taps[r] = op.taps[r];
  pointwise(device, bySample({&op.y, &op.x}), f);
}

template <PoolType type>
static void runPool(CudaDevice& device, const Pool& op) {
  pointwise(device, bySample({&op.y, &op.x}),
            Window<type>{featureMap(op.x), featureMap(op.y), sizeOf(op.x), sizeOf(op.y), op.kernel, op.stride,
                         op.padTop, op.padLeft});
}

void run(CudaDevice& device, const Pool& op, void*) {
  op.type == PoolType::max ? runPool<PoolType::max>(device, op) : runPool<PoolType::mean>(device, op);
}

void run(CudaDevice& device, const ResizeBilinear& op, void*) {
  pointwise(device, bySample({&op.y, &op.x}), Bilinear{featureMap(op.x), featureMap(op.y), sizeOf(op.x), sizeOf(op.y)});
}

void run(CudaDevice& device, const UpsampleNearest& op, void*) {
  pointwise(device, bySample({&op.y, &op.x}),
            Spread{featureMap(op.x), featureMap(op.y), sizeOf(op.x), sizeOf(op.y), op.factor, 1});
}

void run(CudaDevice& device, const UpsampleNearestBackward& op, void*) {
  pointwise(device, bySample({&op.dx, &op.dy}),
            Gather{featureMap(op.dy), featureMap(op.dx), sizeOf(op.dy), sizeOf(op.dx), op.factor, 1});
}

void run(CudaDevice& device, const AvgPool& op, void*) {
  const float scale = 1.0f / float(op.kernel * op.kernel);
  pointwise(device, bySample({&op.y, &op.x}),
            Gather{featureMap(op.x), featureMap(op.y), sizeOf(op.x), sizeOf(op.y), op.kernel, scale});
}

void run(CudaDevice& device, const AvgPoolBackward& op, void*) {
  const float scale = 1.0f / float(op.kernel * op.kernel);
  pointwise(device, bySample({&op.dx, &op.dy}),
            Spread{featureMap(op.dy), featureMap(op.dx), sizeOf(op.dy), sizeOf(op.dx), op.kernel, scale});
}

}  // namespace ddpm::cuda
