// Which algorithm computes a convolution.
#include <initializer_list>

#include "kernels/cpu/bf16/kernel.h"
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/conv2d_bf16.h"
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
// from memory; AVX-512, Zen 4 and 5; those of packing with AVX-512 on Zen 4 only, AVX2's are taken for half of them).
// Threads share tiles and weights alike, so the choice doesn't depend on their number.
constexpr double kTransform = 14;                 // of an element of an input or output tile, at each point
constexpr double kPack = kWidth == 16 ? 40 : 20;  // to read a weight from memory and pack it
constexpr double kPoint = 5.5;                    // to transform a filter, at each point

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

// `kept`: with weights that are kept packed.
double directCost(const Size& s, int taps, bool kept) {
  constexpr double kStream = kWidth == 16 ? 24 : 8;  // a weight, read while nothing else is done
  return taps * s.weights() * (s.pixels() + (kept ? kStream : kPack));
}

// With operands that are rounded to bf16 (measured with AVX512-BF16 on Zen 4; with AMX by its kernel's `speed` alone).
double bf16Cost(const bf16::Kernel& kernel, const Size& s, int taps, bool kept) {
  constexpr double kStream = 12;  // a weight of half the size, as in directCost
  constexpr double kPack = 30;
  constexpr double kRound = 6;  // an element of the input
  constexpr double kSum = 16;   // a sum of a tap goes through memory: as much as so many elements of the depth
  const Size filled = {s.n, s.rows, s.columns, 2 * kernel.pairsOf(s.depth), s.channels};
  const double sums = taps * s.pixels() * double(roundUp<int64_t>(s.channels, bf16::kNarrow)) * kSum;
  return taps * filled.weights() * (s.pixels() / kernel.speed + (kept ? kStream : kPack)) + sums / kernel.speed +
         s.pixels() * double(s.depth) * kRound;
}

double winogradCost(const Size& s, const Winograd& f, bool kept) {
  // A kept weight is fetched ahead while the panel before it is multiplied, which takes that long at least: memory is
  // no faster where vectors are wider. Tasks that transform filters themselves read their tiles once more for each
  // panel.
  constexpr double kStream = 14 * kWidth / 8.0, kRest = 4, kAgain = 0.25;
  const double tiles = s.tiles(f.out);
  const double pack = kept ? 0 : 9 * kPack + f.products * kPoint;
  const double product = kept ? maxOf(tiles + kRest, kStream) : tiles * (1 + kAgain) + kRest;
  return s.weights() * (pack + f.products * product) + transformCost(s, f);
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
template <class Direct, class Cost>
ConvAlgo cheapest(const Tensor& w, const ConvShape& shape, const PlanOptions& options, const Direct& directCost,
                  const Cost& winogradCost) {
  if (w.h != 3 || w.w != 3 || shape.stride != 1 || options.forceAlgo == int(ConvAlgo::direct)) return ConvAlgo::direct;
  const bool upsamples = shape.upsample == 2 && shape.padTop == 1 && shape.padLeft == 1;
  ConvAlgo best = ConvAlgo::direct;
  double least = directCost();
  for (const Winograd& f : {kWinograd2, kWinograd4, kWinogradUpsample}) {
    if (f.algo == ConvAlgo::winogradUpsample && !upsamples) continue;
    if (options.forceAlgo == int(f.algo)) return f.algo;
    const double cost = winogradCost(f);
    if (cost >= least) continue;
    best = f.algo;
    least = cost;
  }
  return best;
}

// The same whatever the batch: as for a small one.
int64_t samplesOf(int32_t n, const PlanOptions& options) { return options.deterministic ? 4 : n; }

size_t packedBytes(const CpuDevice& device, ConvAlgo algo, const Filters& f) {
  if (algo == ConvAlgo::directBf16) return size_t(bf16PanelBytes(device, f));
  return sizeof(float) * (isWinograd(algo) ? winogradFloats(algo, f) : size_t(panelFloats(f)));
}

double costOf(const CpuDevice& device, ConvAlgo algo, const Size& s, int taps, bool kept) {
  if (algo == ConvAlgo::directBf16) return bf16Cost(*device.bf16, s, taps, kept);
  for (const Winograd& f : {kWinograd2, kWinograd4, kWinogradUpsample})
    if (f.algo == algo) return winogradCost(s, f, kept);
  return directCost(s, taps, kept);
}

// The algorithm does not depend on what is kept packed, and so neither do the numbers.
ConvPlan planOf(const CpuDevice& device, const Filters& f, const ConvShape& shape, const Size& s,
                const PlanOptions& options) {
  const auto cost = [&](ConvAlgo algo, bool kept) { return costOf(device, algo, s, f.taps(), kept); };
  ConvAlgo algo = cheapest(
      f.w, shape, options, [&] { return cost(ConvAlgo::direct, false); },
      [&](const Winograd& w) { return cost(w.algo, false); });
  if (options.products == DType::bf16 && device.bf16) {
    const bool isForced = options.forceAlgo == int(ConvAlgo::directBf16);
    const bool isFree = options.forceAlgo < 0 && cost(ConvAlgo::directBf16, false) < cost(algo, false);
    if (isForced || isFree) algo = ConvAlgo::directBf16;
  }
  const size_t bytes = packedBytes(device, algo, f);
  const double saved = cost(algo, false) - cost(algo, true);
  // Of 1x1 filters, small ones for few pixels; large ones would be read from memory once for each chunk of the pixels.
  constexpr int64_t kFloats = 1 << 20, kPixels = 512;
  const bool streams = f.taps() == 1 && (panelFloats(f) > kFloats || s.pixels() > kPixels);
  const bool fits = options.packedBytes < 0 || bytes <= uint64_t(options.packedBytes);
  if (saved <= 0 || streams || !fits) return {.algo = algo};
  return {.algo = algo, .packedBytes = bytes, .saved = saved};
}

}  // namespace

ConvPlan planConv(const CpuDevice& device, const Conv2d& op, const PlanOptions& options) {
  const Size size = {samplesOf(op.y.n, options), op.y.h, op.y.w, op.w.c, op.w.n};
  return planOf(device, {op.w, op.scale, ConvPass::forward}, op.shape, size, options);
}

ConvPlan planDgrad(const CpuDevice& device, const Conv2dDgrad& op, const PlanOptions& options) {
  const Size size = {samplesOf(op.dx.n, options), op.dx.h, op.dx.w, op.w.n, op.w.c};
  return planOf(device, {op.w, op.scale, ConvPass::dgrad}, op.shape, size, options);
}

ConvAlgo planWgrad(const CpuDevice&, const Conv2dWgrad& op, const PlanOptions& options) {
  const Size size = {samplesOf(op.dy.n, options), op.dy.h, op.dy.w, op.dWeight.n, op.dWeight.c};
  return cheapest(
      op.dWeight, op.shape, options, [&] { return directWgradCost(size); },
      [&](const Winograd& w) { return winogradWgradCost(size, w); });
}

}  // namespace ddpm::cpu::DDPM_ISA
