// The yardstick of every op test: each op of ops.h as its definition reads, one loop an index, sums in double, one
// thread. Nothing here is fast and nothing should be made so. An op that cannot be computed throws; backend.cpp
// catches.
#pragma once
#include <bit>
#include <cmath>

#include "kernels/ops.h"

namespace ddpm::reference {

#define DDPM_DECLARE(Op) void run(const Op&);
DDPM_OPS(DDPM_DECLARE)
#undef DDPM_DECLARE

// A number of an f32, f16, bf16 or, to read only, i8 tensor, seen as a float. Writing rounds to nearest even.
class Element {
 public:
  Element(const Tensor& t, int64_t i) : t_(t), i_(i) {}
  operator float() const {
    if (t_.dtype == DType::f32) return t_.f32()[i_];
    if (t_.dtype == DType::f16) return float(static_cast<const _Float16*>(t_.data)[i_]);
    if (t_.dtype == DType::i8) return float(static_cast<const int8_t*>(t_.data)[i_]);
    return std::bit_cast<float>(uint32_t(static_cast<const uint16_t*>(t_.data)[i_]) << 16);
  }
  const Element& operator=(float x) const {
    if (t_.dtype == DType::f32)
      t_.f32()[i_] = x;
    else if (t_.dtype == DType::f16)
      static_cast<_Float16*>(t_.data)[i_] = _Float16(x);
    else
      static_cast<uint16_t*>(t_.data)[i_] = toBfloat16(x);
    return *this;
  }
  const Element& operator=(const Element& other) const { return *this = float(other); }
  const Element& operator+=(float x) const { return *this = float(*this) + x; }

 private:
  static uint16_t toBfloat16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint16_t low = uint16_t(bits), high = uint16_t(bits >> 16);
    if (std::isnan(x)) return high | 1;
    return high + uint16_t(low > 0x8000 || (low == 0x8000 && high % 2));
  }

  const Tensor& t_;
  const int64_t i_;
};

inline Element at(const Tensor& t, int64_t row, int c) { return {t, row * t.ld + c}; }
inline Element at(const Tensor& t, int n, int h, int w, int c) { return at(t, (int64_t(n) * t.h + h) * t.w + w, c); }
inline int32_t index(const Tensor& t, int n) { return t.i32()[int64_t(n) * t.ld]; }

// The row of a table that sample n picks, clamped to the table (ops.h, Tables).
inline int rowOf(const Tensor& table, const Tensor& t, int n) {
  const int i = index(t, n);
  return i < 0 ? 0 : i < table.n ? i : table.n - 1;
}

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
