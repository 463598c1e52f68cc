// Convolution and its two gradients, straight from the sums in ops.h.
#include <stdexcept>

#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const ConvPackWeights&) {
  // planConv and planDgrad ask for no packed weights, so nobody may come here.
  throw std::logic_error("the reference backend packs no weights");
}

// A weight, as ops.h says of formats.
static double weight(const Tensor& w, const Tensor& scale, int k, int r, int s, int c) {
  const float value = at(w, k, r, s, c);
  return scale ? value * float(at(scale, 0, k)) : value;
}

void run(const Conv2d& op) {
  const Tensor &x = op.x, &w = op.w, &y = op.y;
  for (int n = 0; n < y.n; ++n)
    for (int p = 0; p < y.h; ++p)
      for (int q = 0; q < y.w; ++q)
        for (int k = 0; k < y.c; ++k) {
          double sum = 0;
          for (int r = 0; r < w.h; ++r)
            for (int s = 0; s < w.w; ++s) {
              const int h = p * op.shape.stride - op.shape.padTop + r, v = q * op.shape.stride - op.shape.padLeft + s;
              if (h < 0 || h >= x.h || v < 0 || v >= x.w) continue;
              for (int c = 0; c < x.c; ++c) sum += weight(w, op.scale, k, r, s, c) * at(x, n, h, v, c);
            }
          if (op.bias) sum += at(op.bias, 0, k);
          if (op.sampleBias) sum += at(op.sampleBias, n, k);
          if (op.residual) sum += at(op.residual, n, p, q, k);
          at(y, n, p, q, k) = float(sum);
        }
}

void run(const Conv2dDgrad& op) {
  const Tensor &dy = op.dy, &w = op.w, &dx = op.dx;
  const int stride = op.shape.stride;
  for (int n = 0; n < dx.n; ++n)
    for (int h = 0; h < dx.h; ++h)
      for (int v = 0; v < dx.w; ++v)
        for (int c = 0; c < dx.c; ++c) {
          double sum = 0;
          for (int r = 0; r < w.h; ++r)
            for (int s = 0; s < w.w; ++s) {
              const int ps = h + op.shape.padTop - r, qs = v + op.shape.padLeft - s;  // p * stride, q * stride
              if (ps < 0 || qs < 0 || ps % stride != 0 || qs % stride != 0) continue;
              const int p = ps / stride, q = qs / stride;
              if (p >= dy.h || q >= dy.w) continue;
              for (int k = 0; k < dy.c; ++k) sum += weight(w, op.scale, k, r, s, c) * at(dy, n, p, q, k);
            }
          if (op.residual) sum += at(op.residual, n, h, v, c);
          at(dx, n, h, v, c) = float(sum);
        }
}

void run(const Conv2dWgrad& op) {
  const Tensor &x = op.x, &dy = op.dy, &dw = op.dWeight;
  for (int k = 0; k < dw.n; ++k)
    for (int r = 0; r < dw.h; ++r)
      for (int s = 0; s < dw.w; ++s)
        for (int c = 0; c < dw.c; ++c) {
          double sum = at(dw, k, r, s, c);
          for (int n = 0; n < dy.n; ++n)
            for (int p = 0; p < dy.h; ++p)
              for (int q = 0; q < dy.w; ++q) {
                const int h = p * op.shape.stride - op.shape.padTop + r, v = q * op.shape.stride - op.shape.padLeft + s;
                if (h < 0 || h >= x.h || v < 0 || v >= x.w) continue;
                sum += double(at(dy, n, p, q, k)) * at(x, n, h, v, c);
              }
          at(dw, k, r, s, c) = float(sum);
        }
  if (!op.dBias) return;
  for (int k = 0; k < dy.c; ++k) {
    double sum = at(op.dBias, 0, k);
    for (int64_t row = 0; row < dy.rows(); ++row) sum += at(dy, row, k);
    at(op.dBias, 0, k) = float(sum);
  }
}

}  // namespace ddpm::reference
