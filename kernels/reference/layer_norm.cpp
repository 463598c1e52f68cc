// Layer normalization (Ba et al. 2016) over the channels of each pixel, and without a mean RMSNorm.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

void rootMeanSquare(const LayerNorm& op) {
  const Tensor& x = op.x;
  for (int64_t row = 0; row < x.rows(); ++row) {
    double squares = 0;
    for (int c = 0; c < x.c; ++c) squares += double(at(x, row, c)) * at(x, row, c);
    const double rstd = std::sqrt(double(x.c)) / std::max(std::sqrt(squares), double(op.eps));
    at(op.rstd, row, 0) = float(rstd);
    for (int c = 0; c < x.c; ++c) at(op.y, row, c) = float(at(op.gamma, 0, c) * at(x, row, c) * rstd);
  }
}

}  // namespace

void run(const LayerNorm& op) {
  if (!op.mean) return rootMeanSquare(op);
  const Tensor& x = op.x;
  for (int64_t row = 0; row < x.rows(); ++row) {
    double sum = 0, squares = 0;
    for (int c = 0; c < x.c; ++c) sum += at(x, row, c);
    const double mean = sum / x.c;
    for (int c = 0; c < x.c; ++c) squares += (at(x, row, c) - mean) * (at(x, row, c) - mean);
    const double rstd = 1 / std::sqrt(squares / x.c + op.eps);
    at(op.mean, row, 0) = float(mean);
    at(op.rstd, row, 0) = float(rstd);
    for (int c = 0; c < x.c; ++c)
      at(op.y, row, c) = float(at(op.gamma, 0, c) * (at(x, row, c) - mean) * rstd + at(op.beta, 0, c));
  }
}

// With u = (x - mean) rstd and du = dy gamma: dx = rstd (du - mean(du) - u mean(du u)). Without a mean it is 0, and so
// is mean(du); where rstd is not of x, dx = rstd du.
void run(const LayerNormBackward& op) {
  const Tensor& x = op.x;
  std::vector<double> dGamma(x.c), dBeta(x.c), u(x.c), du(x.c);
  for (int64_t row = 0; row < x.rows(); ++row) {
    const double mean = op.mean ? float(at(op.mean, row, 0)) : 0, rstd = at(op.rstd, row, 0);
    double sumDu = 0, sumDuU = 0;
    for (int c = 0; c < x.c; ++c) {
      const double dy = at(op.dy, row, c);
      u[c] = (at(x, row, c) - mean) * rstd;
      du[c] = dy * at(op.gamma, 0, c);
      dGamma[c] += dy * u[c];
      dBeta[c] += dy;
      sumDu += du[c];
      sumDuU += du[c] * u[c];
    }
    if (!op.mean) sumDu = 0;
    if (!op.mean && rstd * op.eps >= std::sqrt(double(x.c)) * (1 - 1e-6)) sumDuU = 0;
    for (int c = 0; c < x.c; ++c) at(op.dx, row, c) = float(rstd * (du[c] - sumDu / x.c - u[c] * sumDuU / x.c));
  }
  for (int c = 0; c < x.c; ++c) {
    at(op.dGamma, 0, c) += float(dGamma[c]);
    if (op.dBeta) at(op.dBeta, 0, c) += float(dBeta[c]);
  }
}

}  // namespace ddpm::reference
