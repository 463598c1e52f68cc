// Shared by the files of the convolution: the register tile, the layout of packed weights, and how work is cut.
//
// Direct convolution as an indirect GEMM (as XNNPACK's; Dukhan 2019, "The Indirect Convolution Algorithm"): a tile of
// kTileRows output pixels x kTileVectors vectors of output channels stays in registers while all taps and input
// channels are summed. The input is read where it lies, through one pointer for each pixel and tap (padding: a row of
// zeros); the weights are packed in panels of one tile's channels. Each output element is one chain of FMAs over (r, s,
// c) in that order, whatever tile it falls in: the result depends neither on the batch nor on the number of threads.
#pragma once
#include "kernels/cpu/device.h"
#include "kernels/cpu/simd.h"

namespace ddpm::cpu::DDPM_ISA {

// Accumulators, a vector of each panel column and one broadcast must fit the registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 10, kTileVectors = 2;  // 20 + 2 + 1 of 32; more rows would not leave enough pointers
#else
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 + 2 + 1 of 16
#endif
constexpr int kPanel = kTileVectors * kWidth;

template <class T>
constexpr T ceilDiv(T a, T b) {
  return (a + b - 1) / b;
}
template <class T>
constexpr T roundUp(T a, T b) {
  return ceilDiv(a, b) * b;
}
template <class T>
constexpr T minOf(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T maxOf(T a, T b) {
  return a > b ? a : b;
}

// Channels that a panel starting at `first` computes: kPanel, or kWidth where that is enough for the rest.
constexpr int panelWidth(int channels, int first) { return channels - first <= kWidth ? kWidth : kPanel; }

// Floats of packed weights, [panel][tap][depth][panelWidth], absent channels 0.
constexpr int64_t packedFloats(int channels, int64_t taps, int depth) {
  const int full = channels / kPanel, rest = channels % kPanel;
  return taps * depth * (int64_t(full) * kPanel + (rest == 0 ? 0 : rest <= kWidth ? kWidth : kPanel));
}

// Calls f.operator()<M>() for M == m, 1 <= m <= kTileRows.
template <int M = kTileRows, class F>
DDPM_INLINE void withRows(int m, const F& f) {
  if constexpr (M > 1) {
    if (m < M) return withRows<M - 1>(m, f);
  }
  f.template operator()<M>();
}

}  // namespace ddpm::cpu::DDPM_ISA
