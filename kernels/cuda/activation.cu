// SiLU, GELU (exact, with erf) and GEGLU (Shazeer 2020).
#include "kernels/cuda/activation.cuh"

namespace ddpm::cuda {
namespace {

template <Activation fn>
struct UnaryElements {
  Rows<const float> x;
  Rows<float> y;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; ++i) value.v[i] = fn == Activation::silu ? silu(value.v[i]) : gelu(value.v[i]);
    store<V>(y, row, c, value);
  }
};

template <Activation fn>
struct UnaryGradients {
  Rows<const float> x, dy;
  Rows<float> dx;
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
  Rows<const float> x;
  Rows<float> y;
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
  Rows<const float> x, dy;
  Rows<float> dx;
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
    pointwise(device, extent, UnaryElements<Activation::silu>{in(op.x), out(op.y)});
  else
    pointwise(device, extent, UnaryElements<Activation::gelu>{in(op.x), out(op.y)});
}

void run(CudaDevice& device, const UnaryBackward& op, void*) {
  const Extent extent = flat({&op.dx, &op.x, &op.dy});
  if (op.fn == Activation::silu)
    pointwise(device, extent, UnaryGradients<Activation::silu>{in(op.x), in(op.dy), out(op.dx)});
  else
    pointwise(device, extent, UnaryGradients<Activation::gelu>{in(op.x), in(op.dy), out(op.dx)});
}

void run(CudaDevice& device, const Geglu& op, void*) {
  pointwise(device, bySample({&op.y, &op.x}), GegluElements{in(op.x), out(op.y), op.y.c});
}

void run(CudaDevice& device, const GegluBackward& op, void*) {
  pointwise(device, bySample({&op.dy, &op.x, &op.dx}), GegluGradients{in(op.x), in(op.dy), out(op.dx), op.dy.c});
}

}  // namespace ddpm::cuda
