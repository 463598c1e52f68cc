// The yardstick of every op test: each op of ops.h as its definition reads, one loop an index, sums in double, one
// thread. Nothing here is fast and nothing should be made so. An op that cannot be computed throws; backend.cpp
// catches.
#pragma once
#include "kernels/ops.h"

namespace ddpm::reference {

#define DDPM_DECLARE(Op) void run(const Op&);
DDPM_OPS(DDPM_DECLARE)
#undef DDPM_DECLARE

inline float& at(const Tensor& t, int64_t row, int c) { return t.f32()[row * t.ld + c]; }
inline float& at(const Tensor& t, int n, int h, int w, int c) { return at(t, (int64_t(n) * t.h + h) * t.w + w, c); }
inline int32_t index(const Tensor& t, int n) { return t.i32()[int64_t(n) * t.ld]; }

inline int pixels(const Tensor& t) { return t.h * t.w; }

// f(row, c) for every element; f(n, row, c) where the sample matters too.
template <class F>
void forEach(const Tensor& t, F f) {
  for (int64_t row = 0; row < t.rows(); ++row)
    for (int c = 0; c < t.c; ++c) f(row, c);
}
template <class F>
void forEachOfSample(const Tensor& t, F f) {
  for (int n = 0; n < t.n; ++n)
    for (int p = 0; p < pixels(t); ++p)
      for (int c = 0; c < t.c; ++c) f(n, int64_t(n) * pixels(t) + p, c);
}

double sigmoid(double x);
double silu(double x);
double siluDerivative(double x);
double gelu(double x);
double geluDerivative(double x);

}  // namespace ddpm::reference
