// Sums, per-sample shifts and scales, copies of views.
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

struct AddElements {
  Rows<const float> a, b;
  Rows<float> y;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto sum = load<V>(a, row, c);
    const auto other = load<V>(b, row, c);
    for (int i = 0; i < V; ++i) sum.v[i] += other.v[i];
    store<V>(y, row, c, sum);
  }
};

struct AddSampleElements {
  Rows<const float> x, e;
  Rows<float> y;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    auto sum = load<V>(x, row, c);
    const auto shift = load<V>(e, n, c);
    for (int i = 0; i < V; ++i) sum.v[i] += shift.v[i];
    store<V>(y, row, c, sum);
  }
};

struct DivSampleElements {
  Rows<const float> x, d;
  Rows<const int32_t> dInteger;  // one of the two
  Rows<float> y;
  bool one;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const int sample = one ? 0 : n;
    const float divisor = d ? element(d, sample, 0) : float(element(dInteger, sample, 0));
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; ++i) value.v[i] /= divisor;
    store<V>(y, row, c, value);
  }
};

struct ScaleShiftElements {
  Rows<const float> x, e;
  Rows<float> y;
  int channels;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    const auto scale = load<V>(e, n, c), shift = load<V>(e, n, channels + c);
    for (int i = 0; i < V; ++i) value.v[i] = value.v[i] * (1.0f + scale.v[i]) + shift.v[i];
    store<V>(y, row, c, value);
  }
};

struct CopyElements {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  bool accumulate;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    if (accumulate) {
      const auto before = load<V>(y, row, c);
      for (int i = 0; i < V; ++i) value.v[i] = before.v[i] + value.v[i];
    }
    store<V>(y, row, c, value);
  }
};

struct FillElements {
  Rows<float> y;
  float value;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    Vec<float, V> pack;
    for (int i = 0; i < V; ++i) pack.v[i] = value;
    store<V>(y, row, c, pack);
  }
};

struct PixelSums {
  FeatureMap x, y;
  struct Column {
    FeatureMap x;
    int c;
    __device__ void add(int64_t row, Vec<float, 1>& sums) const { sums.v[0] += number(x, row, c); }
  };
  __device__ Column column(int, int c) const { return {x, c}; }
  __device__ void write(int n, int, int c, const Vec<float, 1>& sums) const { store(y, n, c, sums); }
};

// dx on the way to de: the sums of dy * x and of dy.
struct ScaleShiftGradients {
  Rows<const float> x, e, dy;
  Rows<float> dx, de;
  int channels;
  struct Column {
    Rows<const float> x, dy;
    Rows<float> dx;
    int c;
    float scale;
    __device__ void add(int64_t row, Vec<float, 2>& sums) const {
      const float g = element(dy, row, c);
      sums.v[0] += g * element(x, row, c);
      sums.v[1] += g;
      element(dx, row, c) = g * scale;
    }
  };
  __device__ Column column(int n, int c) const { return {x, dy, dx, c, 1.0f + element(e, n, c)}; }
  __device__ void write(int n, int, int c, const Vec<float, 2>& sums) const {
    element(de, n, c) = sums.v[0];
    element(de, n, channels + c) = sums.v[1];
  }
};

}  // namespace

void run(CudaDevice& device, const Add& op, void*) {
  pointwise(device, flat({&op.y, &op.a, &op.b}), AddElements{in(op.a), in(op.b), out(op.y)});
}

void run(CudaDevice& device, const AddSample& op, void*) {
  pointwise(device, bySample({&op.y, &op.x, &op.e}), AddSampleElements{in(op.x), in(op.e), out(op.y)});
}

void run(CudaDevice& device, const DivSample& op, void*) {
  DivSampleElements f;
  f.x = in(op.x);
  f.y = out(op.y);
  f.one = op.d.n == 1;
  if (op.d.dtype == DType::i32)
    f.dInteger = indices(op.d);
  else
    f.d = in(op.d);
  pointwise(device, bySample({&op.y, &op.x}), f);
}

void run(CudaDevice& device, const ScaleShift& op, void*) {
  pointwise(device, bySample({&op.y, &op.x, &op.e}), ScaleShiftElements{in(op.x), in(op.e), out(op.y), op.y.c});
}

void run(CudaDevice& device, const Copy& op, void*) {
  pointwise(device, flat({&op.y, &op.x}), CopyElements{featureMap(op.x), featureMap(op.y), op.accumulate != 0});
}

void run(CudaDevice& device, const Fill& op, void*) {
  pointwise(device, flat({&op.y}), FillElements{out(op.y), op.value});
}

void run(CudaDevice& device, const SumPixels& op, void*) {
  columnSums<1>(device, PixelSums{featureMap(op.x), featureMap(op.y)}, op.x.n, pixels(op.x), op.x.c, 1);
}

void run(CudaDevice& device, const ScaleShiftBackward& op, void*) {
  columnSums<2>(device, ScaleShiftGradients{in(op.x), in(op.e), in(op.dy), out(op.dx), out(op.de), op.x.c}, op.x.n,
                pixels(op.x), op.x.c, 1);
}

}  // namespace ddpm::cuda
