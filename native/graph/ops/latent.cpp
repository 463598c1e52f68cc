// Latents of first stages (kernels/ops.h, Latents).
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

void checkMoments(const Call& call) {
  const Dims& moments = call.dims(0);
  call.requireDType(0, DType::f32);
  call.require(moments[3] % 2 == 0, "moments", "an even number of channels", toString(moments));
}

std::vector<ValueType> inferSample(const Call& call) {
  checkMoments(call);
  Dims y = call.dims(0);
  y[3] /= 2;
  call.requireDType(1, DType::f32);
  call.requireDims(1, y);
  return {{y}};
}
void lowerSample(Lowering& l) { l.run(GaussianSample{l.in(0), l.in(1), l.out(0)}); }
// Of the moments alone: noise is drawn.
void gradientSample(Gradient& g) {
  if (g.wants(0)) g.give(0, g.emit("gaussianSampleBackward", {g.input(0), g.input(1), g.dy()})[0]);
}
std::vector<ValueType> inferOfMoments(const Call& call) { return {{call.dims(0)}}; }
void lowerSampleBackward(Lowering& l) { l.run(GaussianSampleBackward{l.in(0), l.in(1), l.in(2), l.out(0)}); }

std::vector<ValueType> inferKl(const Call& call) {
  checkMoments(call);
  return {{{call.dims(0)[0], 1, 1, 1}}};
}
void lowerKl(Lowering& l) { l.run(GaussianKl{l.in(0), l.out(0)}); }
void gradientKl(Gradient& g) { g.give(0, g.emit("gaussianKlBackward", {g.input(0), g.dy()})[0]); }
void lowerKlBackward(Lowering& l) { l.run(GaussianKlBackward{l.in(0), l.in(1), l.out(0)}); }

// A choice has no gradient.
std::vector<ValueType> inferNearest(const Call& call) {
  Dims index = call.dims(0);
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(1, {kAny, 1, 1, index[3]});
  call.require(call.dims(1)[0] <= 1 << 24, "codebook", "at most 2^24 rows", toString(call.dims(1)));
  index[3] = 1;
  return {{index, DType::i32}, {index}};
}
void lowerNearest(Lowering& l) { l.run(NearestCode{l.in(0), l.in(1), l.out(0), l.optionalOut(1)}); }

}  // namespace

const std::vector<OpDef>& latentOps() {
  static const std::vector<OpDef> ops = {
      {.name = "gaussianSample",
       .inputs = {"moments", "noise"},
       .infer = inferSample,
       .gradient = gradientSample,
       .lower = lowerSample},
      {.name = "gaussianSampleBackward",
       .inputs = {"moments", "noise", "dy"},
       .infer = inferOfMoments,
       .lower = lowerSampleBackward,
       .internal = true},
      {.name = "gaussianKl", .inputs = {"moments"}, .infer = inferKl, .gradient = gradientKl, .lower = lowerKl},
      {.name = "gaussianKlBackward",
       .inputs = {"moments", "dKl"},
       .infer = inferOfMoments,
       .lower = lowerKlBackward,
       .internal = true},
      {.name = "nearestCode", .inputs = {"z", "codebook"}, .infer = inferNearest, .lower = lowerNearest, .results = 2},
  };
  return ops;
}

}  // namespace ddpm
