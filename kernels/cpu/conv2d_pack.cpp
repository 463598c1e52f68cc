// Packing of the weights of direct convolution.
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

// One tap of one panel: to[c][i] = w[first + i][tap][c], i < width, 0 for channels that are not there.
template <int kVectors>
void packForward(const float* w, float* to, int64_t rowStride, int depth, int valid) {
  constexpr int width = kVectors * kWidth;
  for (int c = 0; c < depth; ++c) {
    float* out = to + int64_t(c) * width;
    for (int i = 0; i < width; ++i) out[i] = i < valid ? w[i * rowStride + c] : 0.0f;
  }
}

// to[k][i] = w[k][tap][first + i].
template <int kVectors>
void packDgrad(const float* w, float* to, int64_t rowStride, int depth, int valid) {
  constexpr int width = kVectors * kWidth;
  for (int k = 0; k < depth; ++k, w += rowStride, to += width) {
    for (int v = 0; v < kVectors; ++v) {
      const int n = valid - v * kWidth;
      store(to + v * kWidth, n >= kWidth ? load(w + v * kWidth) : loadPart(w + v * kWidth, maxOf(n, 0)));
    }
  }
}

}  // namespace

void run(CpuDevice& device, const ConvPackWeights& op, void*) {
  if (isWinograd(op.algo)) return packWinograd(device, op);
  const bool forward = op.pass == ConvPass::forward;
  const int channels = forward ? op.w.n : op.w.c, depth = forward ? op.w.c : op.w.n;
  const int taps = op.w.h * op.w.w;
  const int64_t rowStride = int64_t(taps) * op.w.c;  // from one output channel of w to the next
  float* packed = static_cast<float*>(op.packed);
  device.pool.parallelFor(int64_t(ceilDiv(channels, kPanel)) * taps, [&](int64_t task, int) {
    const int first = int(task / taps) * kPanel, tap = int(task % taps);
    const int width = panelWidth(channels, first), valid = minOf(width, channels - first);
    float* to = packed + (int64_t(first) * taps + int64_t(tap) * width) * depth;
    const float* w = op.w.f32() + int64_t(tap) * op.w.c + (forward ? first * rowStride : first);
    if (forward) {
      width == kPanel ? packForward<kTileVectors>(w, to, rowStride, depth, valid)
                      : packForward<1>(w, to, rowStride, depth, valid);
    } else {
      width == kPanel ? packDgrad<kTileVectors>(w, to, rowStride, depth, valid)
                      : packDgrad<1>(w, to, rowStride, depth, valid);
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
