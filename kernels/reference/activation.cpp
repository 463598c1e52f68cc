// SiLU, GELU (exact, with erf), ReLU, tanh and GEGLU.
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double siluDerivative(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
double gelu(double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }
double geluDerivative(double x) {
  const double density = std::exp(-0.5 * x * x) * 0.5 * M_SQRT1_2 * M_2_SQRTPI;  // 1/sqrt(2 pi)
  return 0.5 * std::erfc(-x * M_SQRT1_2) + x * density;
}

static double quickGelu(double x) { return x * sigmoid(1.702 * x); }
static double quickGeluDerivative(double x) {
  const double s = sigmoid(1.702 * x);
  return s * (1 + 1.702 * x * (1 - s));
}

static double value(Activation fn, double x) {
  switch (fn) {
    case Activation::silu:
      return silu(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::quickGelu:
      return quickGelu(x);
    case Activation::tanh:
      return std::tanh(x);
  }
  return 0;
}

static double derivative(Activation fn, double x) {
  switch (fn) {
    case Activation::silu:
      return siluDerivative(x);
    case Activation::gelu:
      return geluDerivative(x);
    case Activation::relu:
      return x > 0 ? 1 : 0;
    case Activation::quickGelu:
      return quickGeluDerivative(x);
    case Activation::tanh:
      return 1 / (std::cosh(x) * std::cosh(x));
  }
  return 0;
}

void run(const Unary& op) {
  forEach(op.y, [&](int64_t row, int c) { at(op.y, row, c) = float(value(op.fn, at(op.x, row, c))); });
}

void run(const UnaryBackward& op) {
  forEach(op.dx, [&](int64_t row, int c) {
    at(op.dx, row, c) = float(at(op.dy, row, c) * derivative(op.fn, at(op.x, row, c)));
  });
}

void run(const Geglu& op) {
  forEach(op.y,
          [&](int64_t row, int c) { at(op.y, row, c) = float(at(op.x, row, c) * gelu(at(op.x, row, op.y.c + c))); });
}

void run(const GegluBackward& op) {
  const int half = op.dy.c;
  forEach(op.dy, [&](int64_t row, int c) {
    const double value = at(op.x, row, c), gate = at(op.x, row, half + c), dy = at(op.dy, row, c);
    at(op.dx, row, c) = float(dy * gelu(gate));
    at(op.dx, row, half + c) = float(dy * value * geluDerivative(gate));
  });
}

}  // namespace ddpm::reference
