// Transformed filters of Winograd convolution, U = G w Gᵀ.
#include "kernels/cpu/rows.h"
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_transform.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kSteps = kWidth;  // of the depth, that are read at a time

template <class F, int kVectors>
void transformPanel(const Filters& f, int first, int begin, int end, float* to, int64_t pointFloats, int64_t ahead) {
  constexpr int kWide = kVectors * kWidth;
  alignas(kCacheLine) float taps[9][kSteps][kWide];
  for (int d = begin; d < end; d += kSteps, to += kSteps * kWide) {
    const int steps = minOf(kSteps, end - d);
    // Turned by 180 degrees for the gradient of the input.
    for (int tap = 0; tap < 9; ++tap)
      packTap(f, f.forward() ? tap : 8 - tap, first, kWide, d, d + steps, taps[tap][0], ahead);
    for (int step = 0; step < steps; ++step) {
      for (int i = 0; i < kWide; i += kWidth) {
        const auto tap = [&](int t) DDPM_LAMBDA_INLINE { return load(taps[t][step] + i); };
        vf columns[3][F::kSide];
        for (int j = 0; j < 3; ++j) {
          const vf g[3] = {tap(j), tap(3 + j), tap(6 + j)};
          F::weight(g, columns[j]);
        }
        float* const at = to + step * kWide + i;
        for (int r = 0; r < F::kSide; ++r) {
          const vf g[3] = {columns[0][r], columns[1][r], columns[2][r]};
          vf points[F::kSide];
          F::weight(g, points);
          for (int s = 0; s < F::kSide; ++s) {
            float* const out = at + (r * F::kSide + s) * pointFloats;
            __builtin_prefetch(out + kTransformAhead * kVectors, 1);
            store(out, points[s]);
          }
        }
      }
    }
  }
}

}  // namespace

template <class F>
void transformFilters(const Filters& f, int first, int begin, int end, float* to, int64_t pointFloats, int64_t ahead) {
  if (panelWidth(f.channels(), first) == kPanel)
    transformPanel<F, kTileVectors>(f, first, begin, end, to, pointFloats, ahead);
  else
    transformPanel<F, 1>(f, first, begin, end, to, pointFloats, ahead);
}

template void transformFilters<Winograd2>(const Filters&, int, int, int, float*, int64_t, int64_t);
template void transformFilters<Winograd4>(const Filters&, int, int, int, float*, int64_t, int64_t);
template void transformFilters<WinogradUpsample>(const Filters&, int, int, int, float*, int64_t, int64_t);

}  // namespace ddpm::cpu::DDPM_ISA
