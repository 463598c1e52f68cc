// Rounding to bf16 and packing (kernel.h), for the vectors of the instruction set that it is compiled for.
#pragma once
#include "kernels/cpu/bf16/kernel.h"
#include "kernels/cpu/formats.h"

namespace ddpm::cpu::DDPM_ISA {

#if defined(__AVX512BF16__)
// Elements 0 to kWidth of a, then those of b, as pairs.
DDPM_INLINE vi roundPairs(vf a, vf b) { return (vi)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a); }
// Pairs of an element of a and one of b.
DDPM_INLINE vi roundInterleaved(vf a, vf b) {
  typedef uint16_t Wide __attribute__((vector_size(kWidth * 4)));
  Wide from;
  for (int i = 0; i < 2 * kWidth; ++i) from[i] = uint16_t(i / 2 + i % 2 * kWidth);
  return (vi)_mm512_maskz_permutexvar_epi16(0xFFFFFFFF, (__m512i)from, (__m512i)roundPairs(a, b));
}
#else
// In the lower halves.
DDPM_INLINE vi rounded(vf x) {
  const vu bits = (vu)asInt(x), upper = bits >> 16;
  const vi magnitude = asInt(abs(x));
  const vu nearest = (bits + 0x7FFF + (upper & 1)) >> 16;
  const vi kept = magnitude < 0x00800000 ? (vi)(upper & 0x8000) : (vi)nearest;
  return magnitude > 0x7F800000 ? (vi)(upper | 0x40) : kept;  // NaN stays one
}
DDPM_INLINE vi roundPairs(vf a, vf b) {
  const Words low = __builtin_convertvector(rounded(a), Words), high = __builtin_convertvector(rounded(b), Words);
  vi pairs;
  memcpy(&pairs, &low, sizeof low);
  memcpy(reinterpret_cast<char*>(&pairs) + sizeof low, &high, sizeof high);
  return pairs;
}
DDPM_INLINE vi roundInterleaved(vf a, vf b) { return rounded(a) | rounded(b) << 16; }
#endif

DDPM_INLINE void storeInt(uint32_t* p, vi v) { memcpy(p, &v, sizeof v); }

inline void roundRow(const float* from, int64_t depth, float factor, int64_t pairs, uint32_t* to) {
  int64_t p = 0;
  for (; p + kWidth <= pairs && 2 * (p + kWidth) <= depth; p += kWidth)
    storeInt(to + p, roundPairs(load(from + 2 * p) * factor, load(from + 2 * p + kWidth) * factor));
  for (; p < pairs; p += kWidth) {
    const float* const at = from + 2 * p;
    const int64_t left = depth - 2 * p;
    const vi last = roundPairs(widenUpTo(at, left) * factor, widenUpTo(at + kWidth, left - kWidth) * factor);
    const int64_t n = pairs - p < kWidth ? pairs - p : kWidth;
    memcpy(to + p, &last, size_t(n) * sizeof *to);
  }
}

// Rows are columns of the panel: squares of pairs are transposed.
template <class T>
void packRows(const T* from, const bf16::Matrix& m, int columns, int64_t depth, int64_t pairs, int width, uint32_t* to,
              int64_t ahead) {
  for (int64_t p = 0; p < pairs; p += kWidth)
    for (int i = 0; i < width; i += kWidth) {
      const T* const at = from + i * m.ld + 2 * p;
      const int64_t left = depth - 2 * p;
      vf block[kWidth];
      if (i + kWidth <= columns && left >= 2 * kWidth) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          const T* const row = at + j * m.ld;
          block[j] = asFloat(roundPairs(timesScale<T>(widen(row), m.scale, i + j),
                                        timesScale<T>(widen(row + kWidth), m.scale, i + j)));
          fetchWeights(row + ahead);
          if (sizeof(T) * kWidth >= 64) fetchWeights(row + ahead + kWidth);
        }
      } else {
        for (int j = 0; j < kWidth; ++j) {
          if (i + j >= columns || left <= 0) {
            block[j] = zero();
            continue;
          }
          const T* const row = at + j * m.ld;
          block[j] = asFloat(roundPairs(timesScale<T>(widenUpTo(row, left), m.scale, i + j),
                                        timesScale<T>(widenUpTo(row + kWidth, left - kWidth), m.scale, i + j)));
        }
      }
      transpose(block);
      if (p + kWidth <= pairs) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) storeInt(to + (p + j) * width + i, asInt(block[j]));
      } else {
        for (int64_t j = 0; p + j < pairs; ++j) storeInt(to + (p + j) * width + i, asInt(block[j]));
      }
    }
}

// Rows are steps of the depth.
template <class T>
void packColumns(const T* from, const bf16::Matrix& m, int columns, int64_t depth, int64_t pairs, int width,
                 uint32_t* to, int64_t ahead) {
  for (int64_t p = 0; p < pairs; ++p)
    for (int i = 0; i < width; i += kWidth) {
      const T* const at = from + 2 * p * m.ld + i;
      vf even = zero(), odd = zero();
      if (2 * p < depth) even = timesScale<T>(widenUpTo(at, columns - i), m.scale, 2 * p);
      if (2 * p + 1 < depth) odd = timesScale<T>(widenUpTo(at + m.ld, columns - i), m.scale, 2 * p + 1);
      if (2 * p + 1 < depth) {
        fetchWeights(at + ahead);
        fetchWeights(at + m.ld + ahead);
      }
      storeInt(to + p * width + i, roundInterleaved(even, odd));
    }
}

inline void packMatrix(const bf16::Matrix& m, bool transposed, int columns, int64_t depth, int64_t pairs, int width,
                       uint32_t* to, int64_t ahead) {
  Tensor elements;
  elements.data = const_cast<void*>(m.data);
  elements.dtype = m.dtype;
  withElements(elements, [&](const auto* from) {
    transposed ? packColumns(from, m, columns, depth, pairs, width, to, ahead)
               : packRows(from, m, columns, depth, pairs, width, to, ahead);
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
