// SiLU, GELU (exact, with erf), ReLU, tanh and GEGLU (Shazeer 2020).
#include "kernels/cuda/activation.cuh"

namespace ddpm::cuda {
namespace {

__device__ __forceinline__ float quickGelu(float x) { return x * sigmoid(1.702f * x); }
__device__ __forceinline__ float quickGeluDerivative(float x) {
  const float s = sigmoid(1.702f * x);
  return s * (1.0f + 1.702f * x * (1.0f - s));
}

template <Activation fn>
__device__ __forceinline__ float activation(float x) {
  if constexpr (fn == Activation::silu) return silu(x);
  if constexpr (fn == Activation::gelu) return gelu(x);
  if constexpr (fn == Activation::relu) return relu(x);
  if constexpr (fn == Activation::quickGelu) return quickGelu(x);
  if constexpr (fn == Activation::tanh) return tanhf(x);
}
template <Activation fn>
__device__ __forceinline__ float derivative(float x) {
  if constexpr (fn == Activation::silu) return siluDerivative(x);
  if constexpr (fn == Activation::gelu) return geluDerivative(x);
  if constexpr (fn == Activation::relu) return reluDerivative(x);
  if constexpr (fn == Activation::quickGelu) return quickGeluDerivative(x);
  if constexpr (fn == Activation::tanh) return tanhDerivative(x);
}

template <Activation fn>
struct UnaryElements {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; ++i) value.v[i] = activation<fn>(value.v[i]);
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
    for (int i = 0; i < V; ++i) gradient.v[i] *= derivative<fn>(at.v[i]);
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

// f.operator()<fn>() for fn == `fn`.
template <class F>
static void choose(Activation fn, const F& f) {
  switch (fn) {
    case Activation::silu:
      return f.template operator()<Activation::silu>();
    case Activation::gelu:
      return f.template operator()<Activation::gelu>();
    case Activation::relu:
      return f.template operator()<Activation::relu>();
    case Activation::quickGelu:
      return f.template operator()<Activation::quickGelu>();
    case Activation::tanh:
      return f.template operator()<Activation::tanh>();
  }
}

void run(CudaDevice& device, const Unary& op, void*) {
  choose(op.fn, [&]<Activation fn>() {
    pointwise(device, flat({&op.y, &op.x}), UnaryElements<fn>{featureMap(op.x), featureMap(op.y)});
  });
}

void run(CudaDevice& device, const UnaryBackward& op, void*) {
  choose(op.fn, [&]<Activation fn>() {
    const Extent extent = flat({&op.dx, &op.x, &op.dy});
    pointwise(device, extent, UnaryGradients<fn>{featureMap(op.x), featureMap(op.dy), featureMap(op.dx)});
  });
}

void run(CudaDevice& device, const Geglu& op, void*) {
  pointwise(device, bySample({&op.y, &op.x}), GegluElements{featureMap(op.x), featureMap(op.y), op.y.c});
}

void run(CudaDevice& device, const GegluBackward& op, void*) {
  pointwise(device, bySample({&op.dy, &op.x, &op.dx}),
            GegluGradients{featureMap(op.x), featureMap(op.dy), featureMap(op.dx), op.dy.c});
}

}  // namespace ddpm::cuda
