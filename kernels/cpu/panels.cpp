// Packing of weights; see panels.h.
#include "kernels/cpu/panels.h"

#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kAhead = 128;  // floats of a row; the hardware doesn't follow so many rows

// Into the L2 cache: a part is as large as L1.
DDPM_INLINE void fetch(const float* p) { __builtin_prefetch(p, 0, 2); }

DDPM_INLINE vf read(const float* p, int n) { return n >= kWidth ? load(p) : n > 0 ? loadPart(p, n) : zero(); }

// Rows of w are channels: squares are transposed.
template <int kVectors>
void packForward(const float* w, int64_t row, int channels, int steps, float* to, int64_t ahead) {
  constexpr int width = kVectors * kWidth;
  for (int d = 0; d < steps; d += kWidth) {
    for (int i = 0; i < width; i += kWidth) {
      const float* from = w + i * row + d;
      vf block[kWidth];
      if (i + kWidth <= channels && d + kWidth <= steps) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          block[j] = load(from + j * row);
          fetch(from + j * row + ahead);
        }
        transpose(block);
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) store(to + (d + j) * width + i, block[j]);
      } else {
        for (int j = 0; j < kWidth; ++j) {
          block[j] = i + j < channels ? read(from + j * row, steps - d) : zero();
          fetch(from + j * row + ahead);
        }
        transpose(block);
        for (int j = 0; j < kWidth && d + j < steps; ++j) store(to + (d + j) * width + i, block[j]);
      }
    }
  }
}

// Rows of w are steps of the depth.
template <int kVectors>
void packDgrad(const float* w, int64_t row, int channels, int steps, float* to, int64_t ahead) {
  constexpr int width = kVectors * kWidth;
  for (int d = 0; d < steps; ++d)
    for (int i = 0; i < width; i += kWidth) {
      fetch(w + d * row + i + ahead);
      store(to + d * width + i, read(w + d * row + i, channels - i));
    }
}

}  // namespace

void packTap(const Filters& f, int tap, int first, int width, int begin, int end, float* to, int64_t ahead) {
  const int64_t row = int64_t(f.taps()) * f.w.c;  // from one output channel of w to the next
  const int channels = minOf(width, f.channels() - first), steps = end - begin;
  const float* w = f.w.f32() + int64_t(tap) * f.w.c;
  if (f.forward()) {
    w += first * row + begin;
    width == kPanel ? packForward<kTileVectors>(w, row, channels, steps, to, ahead)
                    : packForward<1>(w, row, channels, steps, to, ahead);
  } else {
    w += begin * row + first;
    width == kPanel ? packDgrad<kTileVectors>(w, row, channels, steps, to, ahead)
                    : packDgrad<1>(w, row, channels, steps, to, ahead);
  }
}

void packPanels(CpuDevice& device, const Filters& f, float* to) {
  const int taps = f.taps(), depth = f.depth();
  device.pool.parallelFor(int64_t(ceilDiv(f.channels(), kPanel)) * taps, [&](int64_t task, int) {
    const int first = int(task / taps) * kPanel, tap = int(task % taps), width = panelWidth(f.channels(), first);
    packTap(f, tap, first, width, 0, depth, to + panelOffset(f, first) + int64_t(tap) * width * depth, kAhead);
  });
}

void run(CpuDevice& device, const ConvPackWeights& op, void*) {
  const Filters filters = {op.w, op.pass};
  float* const to = static_cast<float*>(op.packed);
  isWinograd(op.algo) ? packWinograd(device, op.algo, filters, to) : packPanels(device, filters, to);
}

}  // namespace ddpm::cpu::DDPM_ISA
