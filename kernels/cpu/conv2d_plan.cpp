// Which algorithm computes a convolution.
#include <initializer_list>

#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_transform.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

// A convolution of n samples of `rows` x `columns` output pixels, `depth` channels that are summed to `channels`.
struct Size {
  int64_t n, rows, columns, depth, channels;

  double pixels() const { return double(n * rows * columns); }
  double tiles(int out) const { return double(n * ceilDiv<int64_t>(rows, out) * ceilDiv<int64_t>(columns, out)); }
  double weights() const { return double(depth * roundUp<int64_t>(channels, kWidth)); }  // at one tap or point
};

// Costs of one thread, in multiply-adds of the inner kernel. The constants are measured (AVX2, Zen 3, weights that come
// from memory; AVX-512, Zen 5). Threads share tiles and weights alike, so the choice doesn't depend on their number.
constexpr double kTransform = 14;  // of an element of an input or output tile, at each point

// A Winograd algorithm: a tile of out x out outputs takes so many points of the transformed input, and products.
struct Winograd {
  ConvAlgo algo;
  int out;
  double inputs, products;
};
template <class F>
constexpr Winograd winograd(ConvAlgo algo) {
  return {algo, F::kOut, F::kIn * F::kIn, F::kPoints};
}
constexpr Winograd kWinograd2 = winograd<Winograd2>(ConvAlgo::winograd2);
constexpr Winograd kWinograd4 = winograd<Winograd4>(ConvAlgo::winograd4);
constexpr Winograd kWinogradUpsample = winograd<WinogradUpsample>(ConvAlgo::winogradUpsample);

double transformCost(const Size& s, const Winograd& f) {
  return s.tiles(f.out) * kTransform * (f.inputs * double(s.depth) + f.products * double(s.channels));
}

double directCost(const Size& s) {
  constexpr double kStream = kWidth == 16 ? 36 : 8;  // a weight, read while nothing else is done
  return 9 * s.weights() * (s.pixels() + kStream);
}

double winogradCost(const Size& s, const Winograd& f) {
  // A weight is fetched ahead while the panel before it is multiplied, which takes that long at least: memory is no
  // faster where vectors are wider.
  constexpr double kStream = 14 * kWidth / 8.0, kRest = 4;
  return f.products * s.weights() * maxOf(s.tiles(f.out) + kRest, kStream) + transformCost(s, f);
}

double directWgradCost(const Size& s) {
  constexpr double kAdd = 75;  // to add to an element of dW, all taps
  return s.weights() * (9 * s.pixels() + kAdd);
}

double winogradWgradCost(const Size& s, const Winograd& f) {
  constexpr double kAdd = 14;  // to transform a point's sum and add it to dW, once a block
  constexpr int64_t kBlockTiles = 128;
  const double blocks = double(ceilDiv<int64_t>(int64_t(s.tiles(f.out)), kBlockTiles));
  return f.products * s.weights() * (s.tiles(f.out) + kAdd * blocks) + transformCost(s, f);
}

// Of direct convolution and Winograd's that can compute it.
ConvAlgo cheapest(const Tensor& w, const ConvShape& shape, Size s, const PlanOptions& options,
                  double (*directCost)(const Size&), double (*winogradCost)(const Size&, const Winograd&)) {
  if (w.h != 3 || w.w != 3 || shape.stride != 1 || options.forceAlgo == int(ConvAlgo::direct)) return ConvAlgo::direct;
  const bool upsamples = shape.upsample == 2 && shape.padTop == 1 && shape.padLeft == 1;
  if (options.deterministic) s.n = 4;  // the same whatever the batch: as for a small one
  ConvAlgo best = ConvAlgo::direct;
  double least = directCost(s);
  for (const Winograd& f : {kWinograd2, kWinograd4, kWinogradUpsample}) {
    if (f.algo == ConvAlgo::winogradUpsample && !upsamples) continue;
    if (options.forceAlgo == int(f.algo)) return f.algo;
    const double cost = winogradCost(s, f);
    if (cost >= least) continue;
    best = f.algo;
    least = cost;
  }
  return best;
}

ConvPlan planOf(ConvAlgo algo, const Tensor& w, int channels, int depth) {
  const size_t floats = isWinograd(algo) ? winogradPackedFloats(algo, channels, depth)
                                         : size_t(packedFloats(channels, int64_t(w.h) * w.w, depth));
  return {algo, sizeof(float) * floats};
}

}  // namespace

ConvPlan planConv(const CpuDevice&, const Conv2d& op, const PlanOptions& options) {
  const Size size = {op.y.n, op.y.h, op.y.w, op.w.c, op.w.n};
  return planOf(cheapest(op.w, op.shape, size, options, directCost, winogradCost), op.w, op.w.n, op.w.c);
}

ConvPlan planDgrad(const CpuDevice&, const Conv2dDgrad& op, const PlanOptions& options) {
  const Size size = {op.dx.n, op.dx.h, op.dx.w, op.w.n, op.w.c};
  return planOf(cheapest(op.w, op.shape, size, options, directCost, winogradCost), op.w, op.w.c, op.w.n);
}

ConvAlgo planWgrad(const CpuDevice&, const Conv2dWgrad& op, const PlanOptions& options) {
  const Size size = {op.dy.n, op.dy.h, op.dy.w, op.dWeight.n, op.dWeight.c};
  return cheapest(op.dWeight, op.shape, size, options, directWgradCost, winogradWgradCost);
}

}  // namespace ddpm::cpu::DDPM_ISA
