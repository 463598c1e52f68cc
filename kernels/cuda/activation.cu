// SiLU, GELU (exact, with erf) and GEGLU (Shazeer 2020).
#include "kernels/cuda/activation.cuh"

namespace ddpm::cuda {
namespace {

template <Activation fn>
struct UnaryElements {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; ++i) value.v[i] = fn == Activation::silu ? silu(value.v[i]) : gelu(value.v[i]);
    store<V>(y, row, c, value);
  }
};

template <Activation fn>
struct UnaryGradients {
  static constexpr bool kMixed = true;
  FeatureMap x, dy, dx;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const auto at = load<V>(x, row, c);
    auto gradient = load<V>(dy, row, c);
    for (int i = 0; i < V; ++i)
      gradient.v[i] *= fn == Activation::silu ? siluDerivative(at.v[i]) : geluDerivative(at.v[i]);
    store<V>(dx, row, c, gradient);
  }
};

struct GegluElements {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  int half;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    const auto gate = load<V>(x, row, half + c);
    for (int i = 0; i < V; ++i) value.v[i] *= gelu(gate.v[i]);
    store<V>(y, row, c, value);
  }
};

struct GegluGradients {
  static constexpr bool kMixed = true;
  FeatureMap x, dy, dx;
  int half;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c), gate = load<V>(x, row, half + c);
    const auto gradient = load<V>(dy, row, c);
    for (int i = 0; i < V; ++i) {
      const float dValue = gradient.v[i] * gelu(gate.v[i]);
      gate.v[i] = gradient.v[i] * value.v[i] * geluDerivative(gate.v[i]);
      value.v[i] = dValue;
    }
    store<V>(dx, row, c, value);
    store<V>(dx, row, half + c, gate);
  }
};

}  // namespace

void run(CudaDevice& device, const Unary& op, void*) {
  const Extent extent = flat({&op.y, &op.x});
  if (op.fn == Activation::silu)
    pointwise(device, extent, UnaryElements<Activation::silu>{featureMap(op.x), featureMap(op.y)});
  else
    pointwise(device, extent, UnaryElements<Activation::gelu>{featureMap(op.x), featureMap(op.y)});
}

void run(CudaDevice& device, const UnaryBackward& op, void*) {
  const Extent extent = flat({&op.dx, &op.x, &op.dy});
  if (op.fn == Activation::silu)
    pointwise(device, extent, UnaryGradients<Activation::silu>{featureMap(op.x), featureMap(op.dy), featureMap(op.dx)});
  else
    pointwise(device, extent, UnaryGradients<Activation::gelu>{featureMap(op.x), featureMap(op.dy), featureMap(op.dx)});
}

void run(CudaDevice& device, const Geglu& op, void*) {
  pointwise(device, bySample({&op.y, &op.x}), GegluElements{featureMap(op.x), featureMap(op.y), op.y.c});
}

void run(CudaDevice& device, const GegluBackward& op, void*) {
  pointwise(device, bySample({&op.dy, &op.x, &op.dx}),
            GegluGradients{featureMap(op.x), featureMap(op.dy), featureMap(op.dx), op.dy.c});
}

}  // namespace ddpm::cuda
