// SiLU, GELU, quick GELU, ReLU, tanh and GEGLU.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

// gelu(x) = x P(x), P the normal distribution's function (Hendrycks & Gimpel 2016); its derivative: P(x) + x p(x)
static DDPM_INLINE vf normalCdf(vf x) { return erf(x * 0.707106781f) * 0.5f + 0.5f; }
static DDPM_INLINE vf gelu(vf x) { return x * normalCdf(x); }
static DDPM_INLINE vf geluSlope(vf x) { return x * 0.398942280f * exp(x * x * -0.5f) + normalCdf(x); }

static DDPM_INLINE vf quickGelu(vf x) { return x / expClamped(x * -1.702f, broadcast(1.0f)); }
static DDPM_INLINE vf quickGeluSlope(vf x) {
  const vf s = sigmoid(x * 1.702f);
  return s * (x * 1.702f * (1.0f - s) + 1.0f);
}

template <class Function>
static void map(CpuDevice& device, const Unary& op, Function f) {
  forRows(device, {op.x, op.y}, [f](float* const* p, int64_t n) {
    const float* x = p[0];
    float* y = p[1];
    forChannels(n, [=](int64_t i, auto part) { part.store(y + i, f(part.load(x + i))); });
  });
}

void run(CpuDevice& device, const Unary& op, void*) {
  switch (op.fn) {
    case Activation::silu:
      return map(device, op, [](vf x) { return silu(x); });
    case Activation::gelu:
      return map(device, op, [](vf x) { return gelu(x); });
    case Activation::relu:
      return map(device, op, [](vf x) { return max(zero(), x); });  // NaN stays
    case Activation::quickGelu:
      return map(device, op, [](vf x) { return quickGelu(x); });
    case Activation::tanh:
      return map(device, op, [](vf x) { return tanh(x); });
  }
}

template <class Slope>
static void mapBackward(CpuDevice& device, const UnaryBackward& op, Slope slope) {
  forRows(device, {op.x, op.dy, op.dx}, [slope](float* const* p, int64_t n) {
    const float *x = p[0], *dy = p[1];
    float* dx = p[2];
    forChannels(n, [=](int64_t i, auto part) { part.store(dx + i, part.load(dy + i) * slope(part.load(x + i))); });
  });
}

void run(CpuDevice& device, const UnaryBackward& op, void*) {
  switch (op.fn) {
    case Activation::silu:
      return mapBackward(device, op, [](vf x) { return siluSlope(x); });
    case Activation::gelu:
      return mapBackward(device, op, [](vf x) { return geluSlope(x); });
    case Activation::relu:
      return mapBackward(device, op, [](vf x) { return select(x > 0.0f, broadcast(1.0f), zero()); });
    case Activation::quickGelu:
      return mapBackward(device, op, [](vf x) { return quickGeluSlope(x); });
    case Activation::tanh:
      return mapBackward(device, op, [](vf x) { return 4.0f * sigmoid(x + x) * sigmoid(-x - x); });
  }
}

// ---- GEGLU: the two halves of x are two views of it ---------------------------------------------------------------

static Tensor half(const Tensor& wide, int32_t c, int32_t which) {
  Tensor t = wide;
  t.data = wide.f32() + int64_t(which) * c;
  t.c = c;
  return t;
}

void run(CpuDevice& device, const Geglu& op, void*) {
  const int32_t c = op.y.c;
  forRows(device, {half(op.x, c, 0), half(op.x, c, 1), op.y}, [](float* const* p, int64_t n) {
    const float *value = p[0], *gate = p[1];
    float* y = p[2];
    forChannels(n, [=](int64_t i, auto part) { part.store(y + i, part.load(value + i) * gelu(part.load(gate + i))); });
  });
}

void run(CpuDevice& device, const GegluBackward& op, void*) {
  const int32_t c = op.dy.c;
  forRows(device, {half(op.x, c, 0), half(op.x, c, 1), op.dy, half(op.dx, c, 0), half(op.dx, c, 1)},
          [](float* const* p, int64_t n) {
            const float *value = p[0], *gate = p[1], *dy = p[2];
            float *dValue = p[3], *dGate = p[4];
            forChannels(n, [=](int64_t i, auto part) {
              const vf g = part.load(dy + i), v = part.load(value + i), t = part.load(gate + i);
              part.store(dValue + i, g * gelu(t));
              part.store(dGate + i, g * v * geluSlope(t));
            });
          });
}

}  // namespace ddpm::cpu::DDPM_ISA
