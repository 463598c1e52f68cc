// Which algorithm computes a convolution.
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

// A convolution of n samples of `rows` x `columns` output pixels, `depth` channels that are summed to `channels`.
struct Size {
  int64_t n, rows, columns, depth, channels;
};

bool fitsWinograd(const Tensor& w, const ConvShape& shape) { return w.h == 3 && w.w == 3 && shape.stride == 1; }

// Costs are in multiply-adds of the inner kernel; the constants are measured (AVX2, 6 x 16 kernel).
double directCost(const Size& s) {
  constexpr double kWeight = 12;  // to stream a weight
  const double weights = 9.0 * double(s.depth * s.channels);
  return double(s.n * s.rows * s.columns) * weights + kWeight * weights;
}

double winogradCost(const Size& s, int out) {
  constexpr double kWeight = 12;               // to stream a transformed weight
  constexpr double kInput = 24, kOutput = 20;  // to transform an element, at each point, load and store included
  const double points = (out + 2) * (out + 2);
  const double tiles = double(s.n * ceilDiv<int64_t>(s.rows, out) * ceilDiv<int64_t>(s.columns, out));
  const double depth = double(s.depth), channels = double(s.channels);
  return points * ((tiles + kWeight) * depth * channels + tiles * (kInput * depth + kOutput * channels));
}

ConvAlgo cheapest(Size s, const PlanOptions& options) {
  if (options.forceAlgo == int(ConvAlgo::direct) || options.forceAlgo == int(ConvAlgo::winograd2) ||
      options.forceAlgo == int(ConvAlgo::winograd4))
    return ConvAlgo(options.forceAlgo);
  if (options.deterministic) s.n = 4;  // as for a small batch, whatever the batch
  const double direct = directCost(s), two = winogradCost(s, 2), four = winogradCost(s, 4);
  if (four < direct && four < two) return ConvAlgo::winograd4;
  return two < direct ? ConvAlgo::winograd2 : ConvAlgo::direct;
}

ConvPlan planOf(ConvAlgo algo, const Tensor& w, int channels, int depth) {
  const size_t floats = isWinograd(algo) ? winogradPackedFloats(algo, channels, depth)
                                         : size_t(packedFloats(channels, int64_t(w.h) * w.w, depth));
  return {algo, sizeof(float) * floats};
}

}  // namespace

ConvPlan planConv(const CpuDevice&, const Conv2d& op, const PlanOptions& options) {
  const ConvAlgo algo =
      fitsWinograd(op.w, op.shape) ? cheapest({op.y.n, op.y.h, op.y.w, op.w.c, op.w.n}, options) : ConvAlgo::direct;
  return planOf(algo, op.w, op.w.n, op.w.c);
}

ConvPlan planDgrad(const CpuDevice&, const Conv2dDgrad& op, const PlanOptions& options) {
  const ConvAlgo algo =
      fitsWinograd(op.w, op.shape) ? cheapest({op.dx.n, op.dx.h, op.dx.w, op.w.n, op.w.c}, options) : ConvAlgo::direct;
  return planOf(algo, op.w, op.w.c, op.w.n);
}

ConvAlgo planWgrad(const CpuDevice&, const Conv2dWgrad& op, const PlanOptions& options) {
  return fitsWinograd(op.dWeight, op.shape) ? cheapest({op.dy.n, op.dy.h, op.dy.w, op.x.c, op.dy.c}, options)
                                            : ConvAlgo::direct;
}

}  // namespace ddpm::cpu::DDPM_ISA
