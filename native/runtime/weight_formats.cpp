#include "native/runtime/weight_formats.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "native/graph/error.h"
#include "native/graph/graph.h"

namespace ddpm {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

uint32_t bitsOf(float x) { return std::bit_cast<uint32_t>(x); }

// IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction. Written without branches, as all here: vectors of them.
struct Half {
  static constexpr uint32_t kTooLarge = 0x477ff000;  // 65520, which is no longer nearest to 65504

  static uint16_t of(float x) {
    const uint32_t bits = bitsOf(x), sign = bits >> 16 & 0x8000, a = bits & kMagnitude;
    // Below 2^-14, in units of 2^-24: the last place of a float between 0.5 and 1.
    const uint32_t small = bitsOf(std::bit_cast<float>(a) + 0.5f) - bitsOf(0.5f);
    const uint32_t usual = (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13;
    const uint32_t special = a > kInfinity ? 0x7e00 : 0x7c00;
    return uint16_t(sign | (a < 0x38800000 ? small : a < 0x47800000 ? usual : special));
  }
};

// The upper half of a float.
struct Brain {
  static constexpr uint32_t kTooLarge = 0x7f7f8000;

  static uint16_t of(float x) {
    const uint32_t bits = bitsOf(x);
    const bool isNan = (bits & kMagnitude) > kInfinity;
    return uint16_t(isNan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};

[[noreturn]] void refuse(const Place& place, float number, const char* better) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", double(number));
  const char* format = "int8";
  for (const WeightFormat& each : kWeightFormats)
    if (each.dtype == place.format) format = each.name;
  Failure failure("unsupported", "weightFormat: '" + std::string(format) + "' can't hold " +
                                     Failure::quoted(place.name) + ", which has the number " + text + "; " + better +
                                     " can");
  failure.argument = "weightFormat";
  failure.expected = better;
  failure.received = "'" + std::string(format) + "'";
  throw failure;
}

template <class Format>
void narrowWords(const Place& place, const float* numbers, int64_t n, uint16_t* held, const char* better) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    held[i] = Format::of(numbers[i]);
    bad |= uint32_t((bitsOf(numbers[i]) & kMagnitude) - Format::kTooLarge < kInfinity - Format::kTooLarge);
  }
  if (!bad) return;
  const auto isBad = [](float x) { return std::isfinite(x) && (bitsOf(x) & kMagnitude) >= Format::kTooLarge; };
  refuse(place, *std::find_if(numbers, numbers + n, isBad), better);
}

void narrowRow(const Place& place, const float* numbers, int8_t* held, float& scale) {
  uint32_t most = 0;
  for (int64_t i = 0; i < place.row; ++i) most = std::max(most, bitsOf(numbers[i]) & kMagnitude);
  if (most >= kInfinity)
    refuse(place, *std::find_if(numbers, numbers + place.row, [](float x) { return !std::isfinite(x); }), "'fp32'");
  scale = float(double(std::bit_cast<float>(most)) / 127);
  if (scale == 0) {
    std::memset(held, 0, size_t(place.row));
    return;
  }
  constexpr double kEven = 0x1.8p52;  // added, it leaves no place for a fraction
  for (int64_t i = 0; i < place.row; ++i) {
    const double q = (double(numbers[i]) / double(scale) + kEven) - kEven;
    held[i] = int8_t(std::clamp(q, -127.0, 127.0));  // a scale may be too small a number to be near its quotient
  }
}

}  // namespace

void narrow(const Place& place, const float* numbers, int64_t n, void* held, float* scales) {
  switch (place.format) {
    case DType::f16:
      return narrowWords<Half>(place, numbers, n, static_cast<uint16_t*>(held), "'bf16' or 'fp32'");
    case DType::bf16:
      return narrowWords<Brain>(place, numbers, n, static_cast<uint16_t*>(held), "'fp32'");
    case DType::i8:
      for (int64_t i = 0; i < n / place.row; ++i)
        narrowRow(place, numbers + i * place.row, static_cast<int8_t*>(held) + i * place.row, scales[i]);
      return;
    default:
      std::memcpy(held, numbers, size_t(n) * 4);
  }
}

void widen(const Place& place, const void* held, const float* scales, int64_t n, float* numbers) {
  if (place.format == DType::i8) {
    const int8_t* from = static_cast<const int8_t*>(held);
    for (int64_t row = 0; row < n / place.row; ++row)
      for (int64_t i = row * place.row; i < (row + 1) * place.row; ++i) numbers[i] = scales[row] * float(from[i]);
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(held);
  if (place.format == DType::f16) {
    for (int64_t i = 0; i < n; ++i) numbers[i] = halfToFloat(from[i]);
  } else if (place.format == DType::bf16) {
    for (int64_t i = 0; i < n; ++i) numbers[i] = std::bit_cast<float>(uint32_t(from[i]) << 16);
  } else {
    std::memcpy(numbers, held, size_t(n) * 4);
  }
}

// Exact; a NaN becomes the usual one.
float halfToFloat(uint16_t half) {
  const uint32_t exponent = (half >> 10) & 0x1f, fraction = half & 0x3ff, sign = uint32_t(half & 0x8000) << 16;
  const uint32_t small = bitsOf(float(fraction) * 0x1p-24f) | sign;
  const uint32_t usual = ((exponent + 112) << 23 | fraction << 13) | sign;
  const uint32_t special = fraction ? 0x7fc00000u : 0x7f800000u | sign;
  return std::bit_cast<float>(exponent == 0 ? small : exponent == 31 ? special : usual);
}

}  // namespace ddpm
