// The 16-bit formats on the CPU, rounded to nearest even as the GPU's conversions do.
#pragma once
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

// 5 bits of exponent, whose bias is 112 less than a float's, and 10 of fraction, 13 less.
inline uint16_t toHalf(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7FFFFFFF;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (x != x) return 0x7FFF;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // from 65520 on
  if (magnitude < 0x38800000)                         // below 2^-14: subnormal, in units of 2^-24
    return sign | uint16_t(std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f));
  return sign | uint16_t(((magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13) - (112 << 10));
}
inline float fromHalf(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(float(fraction) * 0x1p-24f));
  return std::bit_cast<float>(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
}

}  // namespace ddpm::cuda::host
