// Numbers that are held narrow, read as vectors of floats. Exact; a NaN stays one.
#pragma once
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace ddpm::cpu::DDPM_ISA {

// IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction. bfloat16: the upper half of a float.
struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

typedef uint16_t Words __attribute__((vector_size(kWidth * 2)));
typedef int8_t Bytes __attribute__((vector_size(kWidth)));

template <class Vector>
DDPM_INLINE Vector loadAs(const void* p) {
  Vector v;
  memcpy(&v, p, sizeof v);
  return v;
}

DDPM_INLINE vf widen(const float* p) { return load(p); }
DDPM_INLINE vf widen(const Bfloat16* p) { return asFloat(__builtin_convertvector(loadAs<Words>(p), vi) << 16); }
DDPM_INLINE vf widen(const Float16* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_cvtph_ps(0xFFFF, loadAs<__m256i>(p));
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps(loadAs<__m128i>(p));
#else
  // Numbers below 2^-14, too, when the exponent's 15 becomes 127 by a product.
  const vi bits = __builtin_convertvector(loadAs<Words>(p), vi);
  const vf number = asFloat((bits & 0x7FFF) << 13) * 0x1p112f;
  const vi special = (bits & 0x7C00) == 0x7C00;  // infinities and NaN
  return asFloat(asInt(number) | (special & 0x7F800000) | (bits & 0x8000) << 16);
#endif
}
DDPM_INLINE vf widen(const int8_t* p) { return toFloat(__builtin_convertvector(loadAs<Bytes>(p), vi)); }

// The first n, at most kWidth; the others read as 0 and their memory is not touched.
DDPM_INLINE vf widenPart(const float* p, int n) { return loadPart(p, n); }
template <class T>
DDPM_INLINE vf widenPart(const T* p, int n) {
  T part[kWidth] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return widen(part);
}

// As many of the first n as a vector holds; none where n <= 0.
template <class T>
DDPM_INLINE vf widenUpTo(const T* p, int64_t n) {
  return n >= kWidth ? widen(p) : n > 0 ? widenPart(p, int(n)) : zero();
}

// Of weights: 8-bit numbers are those of row r times scale[r].
template <class T>
DDPM_INLINE vf timesScale(vf row, const float* scale, int64_t r) {
  if constexpr (sizeof(T) > 1) return row;
  return row * broadcast(scale[r]);
}

// Asks for weights that are packed soon, into the L2 cache: a part of a panel is as large as L1.
template <class T>
DDPM_INLINE void fetchWeights(const T* p) {
  __builtin_prefetch(p, 0, 2);
}

// Calls f with a pointer to the elements of t.
template <class F>
DDPM_INLINE void withElements(const Tensor& t, const F& f) {
  switch (t.dtype) {
    case DType::f16:
      return f(static_cast<const Float16*>(t.data));
    case DType::bf16:
      return f(static_cast<const Bfloat16*>(t.data));
    case DType::i8:
      return f(static_cast<const int8_t*>(t.data));
    default:
      return f(static_cast<const float*>(t.data));
  }
}

}  // namespace ddpm::cpu::DDPM_ISA
