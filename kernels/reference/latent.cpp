// Latents of first stages: a posterior's sample and its divergence, and the nearest entry of a codebook.
#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

constexpr double kLow = -30, kHigh = 20;

double logVar(const Tensor& moments, int64_t row, int c) { return at(moments, row, moments.c / 2 + c); }
double clamped(double l) { return std::clamp(l, kLow, kHigh); }
bool isWithin(double l) { return l >= kLow && l <= kHigh; }

}  // namespace

void run(const GaussianSample& op) {
  forEach(op.y, [&](int64_t row, int c) {
    const double std = std::exp(clamped(logVar(op.moments, row, c)) / 2);
    at(op.y, row, c) = float(at(op.moments, row, c) + std * at(op.noise, row, c));
  });
}

void run(const GaussianSampleBackward& op) {
  forEach(op.dy, [&](int64_t row, int c) {
    const double l = logVar(op.moments, row, c), dy = at(op.dy, row, c);
    at(op.dMoments, row, c) = float(dy);
    at(op.dMoments, row, op.dy.c + c) = isWithin(l) ? float(dy * at(op.noise, row, c) * std::exp(l / 2) / 2) : 0.0f;
  });
}

void run(const GaussianKl& op) {
  for (int n = 0; n < op.moments.n; ++n) {
    double sum = 0;
    for (int p = 0; p < pixels(op.moments); ++p)
      for (int c = 0; c < op.moments.c / 2; ++c) {
        const int64_t row = int64_t(n) * pixels(op.moments) + p;
        const double mean = at(op.moments, row, c), l = clamped(logVar(op.moments, row, c));
        sum += (mean * mean + std::exp(l) - 1 - l) / 2;
      }
    at(op.kl, n, 0) = float(sum);
  }
}

void run(const GaussianKlBackward& op) {
  const int half = op.moments.c / 2;
  forEachOfSample(op.dMoments, [&](int n, int64_t row, int c) {
    const double x = at(op.moments, row, c), dKl = at(op.dKl, n, 0);
    if (c < half)
      at(op.dMoments, row, c) = float(dKl * x);
    else
      at(op.dMoments, row, c) = isWithin(x) ? float(dKl * (std::exp(x) - 1) / 2) : 0.0f;
  });
}

void run(const NearestCode& op) {
  for (int64_t row = 0; row < op.z.rows(); ++row) {
    int nearest = 0;
    double least = INFINITY;
    for (int k = 0; k < op.codebook.n; ++k) {
      double distance = 0;
      for (int c = 0; c < op.z.c; ++c) {
        const double d = double(at(op.z, row, c)) - at(op.codebook, k, c);
        distance += d * d;
      }
      if (distance < least) {
        least = distance;
        nearest = k;
      }
    }
    op.index.i32()[row * op.index.ld] = nearest;
    if (op.number) at(op.number, row, 0) = float(nearest);
  }
}

}  // namespace ddpm::reference
