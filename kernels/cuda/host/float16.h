// The 16-bit formats on the CPU, rounded to nearest even as the GPU's conversions do.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace ddpm::cuda::host {

inline uint16_t toBfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0x7FFF;
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float fromBfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

// 5 bits of exponent and 10 of fraction: the value in units of its last place is rounded as an integer.
inline uint16_t toHalf(float x) {
  const uint16_t sign = uint16_t(std::bit_cast<uint32_t>(x) >> 16 & 0x8000);
  const float magnitude = std::fabs(x);
  if (x != x) return 0x7FFF;
  if (magnitude >= 65520.0f) return sign | 0x7C00;
  const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), -14) : -14;
  const int units = int(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 2048 carries into the exponent
  if (exponent == -14 && units < 1024) return sign | uint16_t(units);           // subnormal
  return uint16_t(sign + (exponent + 15) * 1024 + (units - 1024));
}
inline float fromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                    : exponent     ? std::ldexp(float(fraction + 1024), exponent - 25)
                                   : std::ldexp(float(fraction), -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

}  // namespace ddpm::cuda::host
