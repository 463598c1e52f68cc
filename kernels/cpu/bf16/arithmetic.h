// The scalar arithmetic of bf16 products, as Intel documents it for TDPBF16PS (Architecture Instruction Set Extensions
// Programming Reference): fused multiply-adds and additions of float32, rounded to nearest even; numbers below 2^-126
// are zeros of their sign, before and after (DAZ, FTZ).
#pragma once
#include <cstdint>
#include <cstring>

namespace ddpm::cpu::DDPM_ISA {

inline float flushed(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7F800000) == 0) bits &= 0x80000000;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The float nearest to x, which is the exact sum of two floats or of a float and a product of two numbers of bf16, to
// 53 digits: rounding twice gives what rounding once does, since 53 >= 2 * 24 + 2 (Figueroa 1995).
inline float nearest(double x) {
  // Below it is, rounded to 24 digits, less than 2^-126.
  constexpr double kLeast = 0x1p-126 * (1 - 0x1p-25);
  return x < kLeast && x > -kLeast ? float(x * 0.0) : float(x);
}

inline float number(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return flushed(x);
}
inline float evenOf(uint32_t pair) { return number(pair << 16); }
inline float oddOf(uint32_t pair) { return number(pair & 0xFFFF0000); }

inline float multiplyAdd(float a, float b, float c) { return nearest(double(a) * double(b) + double(c)); }
inline float add(float a, float b) { return nearest(double(flushed(a)) + double(flushed(b))); }

}  // namespace ddpm::cpu::DDPM_ISA
