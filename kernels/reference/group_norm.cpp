// Group normalization (Wu & He 2018) with scale-shift and SiLU. A group is the pixels of one sample by C/G channels.
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const GroupNorm& op) {
  const Tensor& x = op.x;
  const int size = x.c / op.groups, area = pixels(x);
  const double count = double(area) * size;
  for (int n = 0; n < x.n; ++n)
    for (int g = 0; g < op.groups; ++g) {
      double sum = 0, squares = 0;
      for (int p = 0; p < area; ++p)
        for (int c = g * size; c < (g + 1) * size; ++c) sum += at(x, int64_t(n) * area + p, c);
      const double mean = sum / count;
      for (int p = 0; p < area; ++p)
        for (int c = g * size; c < (g + 1) * size; ++c) {
          const double d = at(x, int64_t(n) * area + p, c) - mean;
          squares += d * d;
        }
      const double rstd = 1 / std::sqrt(squares / count + op.eps);
      at(op.mean, n, g) = float(mean);
      at(op.rstd, n, g) = float(rstd);
      for (int p = 0; p < area; ++p)
        for (int c = g * size; c < (g + 1) * size; ++c) {
          const int64_t row = int64_t(n) * area + p;
          double v = at(op.gamma, 0, c) * (at(x, row, c) - mean) * rstd + at(op.beta, 0, c);
          if (op.scale) v = v * (1.0 + at(op.scale, n, c)) + at(op.shift, n, c);
          at(op.y, row, c) = float(op.silu ? silu(v) : v);
        }
    }
}

// With u = (x - mean) rstd, v = gamma u + beta, a = v (1 + scale) + shift, y = silu(a):
// da = dy silu'(a); dscale = sum da v; dshift = sum da; dv = da (1 + scale); dgamma = sum dv u; dbeta = sum dv;
// du = dv gamma; dx = rstd (du - mean(du) - u mean(du u)).
void run(const GroupNormBackward& op) {
  const Tensor& x = op.x;
  const int size = x.c / op.groups, area = pixels(x);
  const double count = double(area) * size;
  std::vector<double> dGamma(x.c), dBeta(x.c), u(size_t(area) * size), du(size_t(area) * size);
  for (int n = 0; n < x.n; ++n)
    for (int g = 0; g < op.groups; ++g) {
      const double mean = at(op.mean, n, g), rstd = at(op.rstd, n, g);
      double sumDu = 0, sumDuU = 0;
      for (int i = 0; i < size; ++i) {
        const int c = g * size + i;
        const double gamma = at(op.gamma, 0, c), beta = at(op.beta, 0, c);
        const double scale = op.scale ? 1.0 + at(op.scale, n, c) : 1.0;
        const double shift = op.scale ? at(op.shift, n, c) : 0.0;
        double dScale = 0, dShift = 0;
        for (int p = 0; p < area; ++p) {
          const int64_t row = int64_t(n) * area + p;
          const size_t e = size_t(p) * size + i;
          u[e] = (at(x, row, c) - mean) * rstd;
          const double v = gamma * u[e] + beta;
          const double da = at(op.dy, row, c) * (op.silu ? siluDerivative(v * scale + shift) : 1.0);
          const double dv = da * scale;
          dScale += da * v;
          dShift += da;
          dGamma[c] += dv * u[e];
          dBeta[c] += dv;
          du[e] = dv * gamma;
          sumDu += du[e];
          sumDuU += du[e] * u[e];
        }
        if (op.dScale) at(op.dScale, n, c) = float(dScale);
        if (op.dShift) at(op.dShift, n, c) = float(dShift);
      }
      for (int p = 0; p < area; ++p)
        for (int i = 0; i < size; ++i) {
          const size_t e = size_t(p) * size + i;
          const double dx = rstd * (du[e] - sumDu / count - u[e] * sumDuU / count);
          at(op.dx, int64_t(n) * area + p, g * size + i) = float(dx);
        }
    }
  for (int c = 0; c < x.c; ++c) {
    at(op.dGamma, 0, c) += float(dGamma[c]);
    at(op.dBeta, 0, c) += float(dBeta[c]);
  }
}

}  // namespace ddpm::reference
