// c plus sixteen products of 16-bit numbers, as a tensor core adds them up.
//
// cuda-host: products and sums in f32, in the order of k. cuda-host-contracted: as an A100 does, by the experiments of
// Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores (PeerJ CS 7:e330, 2021), and Xie, Wang,
// Yang and Yang, MMA-Sim (arXiv:2511.10909). Products are exact. Eight of them and the sum so far are added at once:
// each is cut off (toward zero) at 24 bits below the largest exponent among them, where a product's exponent is the sum
// of its factors' ones; what they add up to is exact, and cut off to an f32. H100 adds sixteen and keeps 25 bits, so
// that whatever allows for this allows for that. Not modelled: factors below fp16's normal numbers, which do not lower
// the exponent there, and NaNs' bits.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace ddpm::cuda::host {

constexpr int kProducts = 16;

#ifndef DDPM_HOST_CONTRACTED

inline float addProducts(float c, const float* a, const float* b) {
  for (int k = 0; k < kProducts; ++k) c += a[k] * b[k];
  return c;
}

#else

// Of the leading bit.
inline int exponentOf(float x) { return int(std::bit_cast<uint32_t>(x) >> 23 & 255) - 127; }

inline double powerOfTwo(int e) { return std::bit_cast<double>(uint64_t(1023 + e) << 52); }

inline float cutOff(double x) {
  const float rounded = float(x);
  return std::abs(double(rounded)) > std::abs(x) && !std::isinf(rounded) ? std::nextafter(rounded, 0.0f) : rounded;
}

inline float addAtOnce(float c, const float* a, const float* b, int count) {
  constexpr int kBits = 24, kNone = -1000;
  int largest = c == 0 ? kNone : exponentOf(c);
  bool finite = std::isfinite(c);
  for (int k = 0; k < count; ++k) {
    finite = finite && std::isfinite(a[k]) && std::isfinite(b[k]);
    if (a[k] != 0 && b[k] != 0) largest = std::max(largest, exponentOf(a[k]) + exponentOf(b[k]));
  }
  if (!finite) {
    for (int k = 0; k < count; ++k) c += a[k] * b[k];
    return c;
  }
  if (largest == kNone) return 0;
  const double scale = powerOfTwo(kBits - largest);
  int64_t sum = int64_t(double(c) * scale);
  for (int k = 0; k < count; ++k) sum += int64_t(double(a[k]) * double(b[k]) * scale);
  return cutOff(double(sum) * powerOfTwo(largest - kBits));
}

inline float addProducts(float c, const float* a, const float* b) {
  for (int k = 0; k < kProducts; k += 8) c = addAtOnce(c, a + k, b + k, 8);
  return c;
}

#endif

}  // namespace ddpm::cuda::host
