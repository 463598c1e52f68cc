// Packing of weights; see panels.h.
#include "kernels/cpu/panels.h"

#include "kernels/cpu/conv2d_bf16.h"
#include "kernels/cpu/formats.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kAhead = 128;  // elements of a row; the hardware doesn't follow so many rows

// Rows of w are channels: squares are transposed.
template <int kVectors, class T>
void packForward(const T* w, const float* scale, int64_t row, int channels, int steps, float* to, int64_t ahead) {
  constexpr int width = kVectors * kWidth;
  for (int d = 0; d < steps; d += kWidth) {
    for (int i = 0; i < width; i += kWidth) {
      const T* from = w + i * row + d;
      vf block[kWidth];
      if (i + kWidth <= channels && d + kWidth <= steps) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          block[j] = timesScale<T>(widen(from + j * row), scale, i + j);
          fetchWeights(from + j * row + ahead);
        }
        transpose(block);
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) store(to + (d + j) * width + i, block[j]);
      } else {
        for (int j = 0; j < kWidth; ++j) {
          block[j] = i + j < channels ? timesScale<T>(widenUpTo(from + j * row, steps - d), scale, i + j) : zero();
          fetchWeights(from + j * row + ahead);
        }
        transpose(block);
        for (int j = 0; j < kWidth && d + j < steps; ++j) store(to + (d + j) * width + i, block[j]);
      }
    }
  }
}

// Rows of w are steps of the depth.
template <int kVectors, class T>
void packDgrad(const T* w, const float* scale, int64_t row, int channels, int steps, float* to, int64_t ahead) {
  constexpr int width = kVectors * kWidth;
  for (int d = 0; d < steps; ++d)
    for (int i = 0; i < width; i += kWidth) {
      fetchWeights(w + d * row + i + ahead);
      store(to + d * width + i, timesScale<T>(widenUpTo(w + d * row + i, channels - i), scale, d));
    }
}

}  // namespace

void packTap(const Filters& f, int tap, int first, int width, int begin, int end, float* to, int64_t ahead) {
  const int64_t row = int64_t(f.taps()) * f.w.c;  // from one output channel of w to the next
  const int channels = minOf(width, f.channels() - first), steps = end - begin;
  const int firstRow = f.forward() ? first : begin;
  const int64_t at = int64_t(tap) * f.w.c + firstRow * row + (f.forward() ? begin : first);
  const float* const scale = f.scale ? f.scale.f32() + firstRow : nullptr;
  withElements(f.w, [&](const auto* elements) {
    const auto* const w = elements + at;
    if (f.forward())
      width == kPanel ? packForward<kTileVectors>(w, scale, row, channels, steps, to, ahead)
                      : packForward<1>(w, scale, row, channels, steps, to, ahead);
    else
      width == kPanel ? packDgrad<kTileVectors>(w, scale, row, channels, steps, to, ahead)
                      : packDgrad<1>(w, scale, row, channels, steps, to, ahead);
  });
}

void packPanels(CpuDevice& device, const Filters& f, float* to) {
  const int taps = f.taps(), depth = f.depth();
  device.pool.parallelFor(int64_t(ceilDiv(f.channels(), kPanel)) * taps, [&](int64_t task, int) {
    const int first = int(task / taps) * kPanel, tap = int(task % taps), width = panelWidth(f.channels(), first);
    packTap(f, tap, first, width, 0, depth, to + panelOffset(f, first) + int64_t(tap) * width * depth, kAhead);
  });
}

void run(CpuDevice& device, const ConvPackWeights& op, void*) {
  const Filters filters = {op.w, op.scale, op.pass};
  if (op.algo == ConvAlgo::directBf16) return packBf16(device, filters, static_cast<uint32_t*>(op.packed));
  float* const to = static_cast<float*>(op.packed);
  isWinograd(op.algo) ? packWinograd(device, op.algo, filters, to) : packPanels(device, filters, to);
}

}  // namespace ddpm::cpu::DDPM_ISA
