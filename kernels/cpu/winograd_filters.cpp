// Packing of the weights of Winograd convolution: U = G w Gᵀ as [point][panel][depth][panelWidth], once for each change
// of the weights.
//
// The points of one filter lie far apart, at distances that would have them compete for the same cache sets. So a task
// transforms some steps of the depth in memory of its own, and then writes the steps of each point in one go.
#include "kernels/cpu/rows.h"
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_transform.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kSteps = kWidth;              // of the depth, that are read at a time
constexpr int kWritten = minOf(kSteps, 8);  // that are transformed and written at a time: their points fit the L1 cache

// taps[tap][step][i]: the filters from step d of the depth to channel first + i; 0 for what is not there. Turned by 180
// degrees for the gradient of the input.
template <int kWide>
void readFilters(const ConvPackWeights& op, int first, int d, float (&taps)[9][kSteps][kWide]) {
  const bool forward = op.pass == ConvPass::forward;
  const int64_t row = 9 * int64_t(op.w.c);  // from one output channel of w to the next
  const int channels = minOf(kWide, (forward ? op.w.n : op.w.c) - first);
  const int steps = minOf(kSteps, (forward ? op.w.c : op.w.n) - d);
  const auto read = [](const float* p, int n) { return n >= kWidth ? load(p) : n > 0 ? loadPart(p, n) : zero(); };
  for (int tap = 0; tap < 9; ++tap) {
    for (int i = 0; i < kWide; i += kWidth) {
      vf block[kWidth];
      if (forward) {
        const float* w = op.w.f32() + (first + i) * row + int64_t(tap) * op.w.c + d;
        for (int j = 0; j < kWidth; ++j) block[j] = i + j < channels ? read(w + j * row, steps) : zero();
        transpose(block);
      } else {
        const float* w = op.w.f32() + d * row + int64_t(8 - tap) * op.w.c + first + i;
        for (int j = 0; j < kSteps; ++j) block[j] = j < steps ? read(w + j * row, channels - i) : zero();
      }
      for (int j = 0; j < kSteps; ++j) store(taps[tap][j] + i, block[j]);
    }
  }
}

// u[point][step][i] = G w Gᵀ of kWritten steps.
template <class F, int kWide>
void transformFilters(const float (&taps)[9][kSteps][kWide], int firstStep, float (&u)[F::kPoints][kWritten][kWide]) {
  for (int step = 0; step < kWritten; ++step) {
    for (int i = 0; i < kWide; i += kWidth) {
      const auto tap = [&](int t) DDPM_LAMBDA_INLINE { return load(taps[t][firstStep + step] + i); };
      vf columns[3][F::kSide];
      for (int j = 0; j < 3; ++j) {
        const vf g[3] = {tap(j), tap(3 + j), tap(6 + j)};
        F::weight(g, columns[j]);
      }
      for (int r = 0; r < F::kSide; ++r) {
        const vf g[3] = {columns[0][r], columns[1][r], columns[2][r]};
        vf points[F::kSide];
        F::weight(g, points);
        for (int s = 0; s < F::kSide; ++s) store(u[r * F::kSide + s][step] + i, points[s]);
      }
    }
  }
}

// One panel, the steps [begin, end) of its depth.
template <class F, int kVectors>
void packPanel(const ConvPackWeights& op, int first, int begin, int end, float* to, int64_t pointFloats) {
  constexpr int kWide = kVectors * kWidth;
  alignas(kCacheLine) float taps[9][kSteps][kWide], u[F::kPoints][kWritten][kWide];
  for (int d = begin; d < end; d += kSteps) {
    readFilters(op, first, d, taps);
    for (int step = 0; step < kSteps && d + step < end; step += kWritten) {
      transformFilters<F>(taps, step, u);
      const int64_t floats = int64_t(minOf(kWritten, end - d - step)) * kWide;
      for (int point = 0; point < F::kPoints; ++point) {
        const float* from = u[point][0];
        float* out = to + point * pointFloats + int64_t(d - begin + step) * kWide;
        for (int64_t i = 0; i < floats; i += kWidth) store(out + i, load(from + i));
      }
    }
  }
}

template <class F>
void pack(CpuDevice& device, const ConvPackWeights& op) {
  constexpr int kGrain = 32;  // of the depth in a task
  const bool forward = op.pass == ConvPass::forward;
  const int channels = forward ? op.w.n : op.w.c, depth = forward ? op.w.c : op.w.n;
  const int64_t pointFloats = packedFloats(channels, 1, depth);
  const int pieces = ceilDiv(depth, kGrain);
  device.pool.parallelFor(int64_t(ceilDiv(channels, kPanel)) * pieces, [&](int64_t task, int) {
    const int first = int(task / pieces) * kPanel, width = panelWidth(channels, first);
    const int begin = int(task % pieces) * kGrain, end = minOf(begin + kGrain, depth);
    float* to = static_cast<float*>(op.packed) + int64_t(first) * depth + int64_t(begin) * width;
    if (width == kPanel)
      packPanel<F, kTileVectors>(op, first, begin, end, to, pointFloats);
    else
      packPanel<F, 1>(op, first, begin, end, to, pointFloats);
  });
}

}  // namespace

size_t winogradPackedFloats(ConvAlgo algo, int channels, int depth) {
  const int points = withAlgorithm(algo, []<class F>() { return F::kPoints; });
  return size_t(packedFloats(channels, points, depth));
}

void packWinograd(CpuDevice& device, const ConvPackWeights& op) {
  withAlgorithm(op.algo, [&]<class F>() { pack<F>(device, op); });
}

}  // namespace ddpm::cpu::DDPM_ISA
