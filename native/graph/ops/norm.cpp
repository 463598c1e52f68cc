// Group and layer normalisation (kernels/ops.h, Norms). A SiLU and a scale-shift after a group norm are fused into it
// before differentiation (fuse.h), so that only x is kept for the backward pass.
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

void checkAffine(const Call& call) {
  const int32_t c = call.dims(0)[3];
  for (size_t i = 0; i < 3; ++i) call.requireDType(i, DType::f32);
  call.requireDims(1, {1, 1, 1, c});
  call.requireDims(2, {1, 1, 1, c});
  call.number("eps", 0, 1);
}

// groupNorm: x, gamma, beta, e? -> y, mean, rstd. e {N,1,1,2C} holds scale and shift.
std::vector<ValueType> inferGroupNorm(const Call& call) {
  const Dims& x = call.dims(0);
  checkAffine(call);
  const int32_t groups = call.integer("groups", 1);
  call.require(x[3] % groups == 0, "groups", "a divisor of " + std::to_string(x[3]) + " channels",
               std::to_string(groups));
  if (call.has(3)) call.requireDims(3, {x[0], 1, 1, 2 * x[3]});
  const Dims stats = {x[0], 1, 1, groups};
  return {{x}, {stats}, {stats}};
}

struct ScaleAndShift {
  Tensor scale, shift;
};
ScaleAndShift halves(const Tensor& e) {
  if (!e) return {};
  return {channels(e, 0, e.c / 2), channels(e, e.c / 2, e.c / 2)};
}

void lowerGroupNorm(Lowering& l) {
  const auto [scale, shift] = halves(l.in(3));
  l.run(GroupNorm{.x = l.in(0),
                  .gamma = l.in(1),
                  .beta = l.in(2),
                  .scale = scale,
                  .shift = shift,
                  .y = l.out(0),
                  .mean = l.out(1),
                  .rstd = l.out(2),
                  .groups = int32_t(l.attributes().integer("groups")),
                  .eps = float(l.attributes().number("eps")),
                  .silu = l.attributes().flag("silu")});
}

void gradientGroupNorm(Gradient& g) {
  Attributes a = {{"groups", g.attributes().number("groups")}, {"silu", g.attributes().flag("silu")}};
  const auto d = g.emit("groupNormBackward",
                        {g.input(0), g.input(1), g.input(2), g.input(3), g.output(1), g.output(2), g.dy()}, a);
  g.give(0, d[0]);
  g.giveAccumulated(1, d[1]);
  g.giveAccumulated(2, d[2]);
  if (g.input(3) != kAbsent) g.give(3, d[3]);
}

std::vector<ValueType> inferGroupNormBackward(const Call& call) {
  std::vector<ValueType> types = {{call.dims(0)}, {call.dims(1)}, {call.dims(2)}};
  if (call.has(3)) types.push_back({call.dims(3)});
  return types;
}

void lowerGroupNormBackward(Lowering& l) {
  const auto [scale, shift] = halves(l.in(3));
  const auto [dScale, dShift] = halves(l.in(3) ? l.out(3) : Tensor{});
  l.run(GroupNormBackward{.x = l.in(0),
                          .gamma = l.in(1),
                          .beta = l.in(2),
                          .scale = scale,
                          .shift = shift,
                          .mean = l.in(4),
                          .rstd = l.in(5),
                          .dy = l.in(6),
                          .dx = l.out(0),
                          .dGamma = l.accumulator(1, 1),
                          .dBeta = l.accumulator(2, 2),
                          .dScale = dScale,
                          .dShift = dShift,
                          .groups = int32_t(l.attributes().integer("groups")),
                          .silu = l.attributes().flag("silu")});
}

// ---------------------------------------------------------------------------------------------------------------------

std::vector<ValueType> inferLayerNorm(const Call& call) {
  checkAffine(call);
  const Dims& x = call.dims(0);
  const Dims stats = {x[0], x[1], x[2], 1};
  return {{x}, {stats}, {stats}};
}

void lowerLayerNorm(Lowering& l) {
  l.run(LayerNorm{.x = l.in(0),
                  .gamma = l.in(1),
                  .beta = l.in(2),
                  .y = l.out(0),
                  .mean = l.out(1),
                  .rstd = l.out(2),
                  .eps = float(l.attributes().number("eps"))});
}

void gradientLayerNorm(Gradient& g) {
  const auto d = g.emit("layerNormBackward", {g.input(0), g.input(1), g.input(2), g.output(1), g.output(2), g.dy()});
  g.give(0, d[0]);
  g.giveAccumulated(1, d[1]);
  g.giveAccumulated(2, d[2]);
}

std::vector<ValueType> inferLayerNormBackward(const Call& call) {
  return {{call.dims(0)}, {call.dims(1)}, {call.dims(2)}};
}

void lowerLayerNormBackward(Lowering& l) {
  l.run(LayerNormBackward{.x = l.in(0),
                          .gamma = l.in(1),
                          .mean = l.in(3),
                          .rstd = l.in(4),
                          .dy = l.in(5),
                          .dx = l.out(0),
                          .dGamma = l.accumulator(1, 1),
                          .dBeta = l.accumulator(2, 2),
                          .eps = 0});
}

// ---------------------------------------------------------------------------------------------------------------------
// LayerNorm without mean and beta.

std::vector<ValueType> inferRmsNorm(const Call& call) {
  const Dims& x = call.dims(0);
  for (size_t i = 0; i < 2; ++i) call.requireDType(i, DType::f32);
  call.requireDims(1, {1, 1, 1, x[3]});
  call.number("eps", 0, 1);
  return {{x}, {{x[0], x[1], x[2], 1}}};
}

void lowerRmsNorm(Lowering& l) {
  l.run(LayerNorm{.x = l.in(0),
                  .gamma = l.in(1),
                  .beta = {},
                  .y = l.out(0),
                  .mean = {},
                  .rstd = l.out(1),
                  .eps = float(l.attributes().number("eps"))});
}

void gradientRmsNorm(Gradient& g) {
  const auto d = g.emit("rmsNormBackward", {g.input(0), g.input(1), g.output(1), g.dy()}, g.attributes());
  g.give(0, d[0]);
  g.giveAccumulated(1, d[1]);
}

std::vector<ValueType> inferRmsNormBackward(const Call& call) { return {{call.dims(0)}, {call.dims(1)}}; }

void lowerRmsNormBackward(Lowering& l) {
  l.run(LayerNormBackward{.x = l.in(0),
                          .gamma = l.in(1),
                          .mean = {},
                          .rstd = l.in(2),
                          .dy = l.in(3),
                          .dx = l.out(0),
                          .dGamma = l.accumulator(1, 1),
                          .dBeta = {},
                          .eps = float(l.attributes().number("eps"))});
}

}  // namespace

const std::vector<OpDef>& normOps() {
  static const std::vector<OpDef> ops = {
      {.name = "groupNorm",
       .inputs = {"x", "gamma", "beta"},
       .attributes = {"groups", "eps"},
       .infer = inferGroupNorm,
       .gradient = gradientGroupNorm,
       .lower = lowerGroupNorm,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "groupNormFused",
       .inputs = {"x", "gamma", "beta", "e?"},
       .attributes = {"groups", "eps", "silu"},
       .infer = inferGroupNorm,
       .gradient = gradientGroupNorm,
       .lower = lowerGroupNorm,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}},
       .internal = true},
      {.name = "groupNormBackward",
       .inputs = {"x", "gamma", "beta", "e?", "mean", "rstd", "dy"},
       .attributes = {"groups", "silu"},
       .infer = inferGroupNormBackward,
       .lower = lowerGroupNormBackward,
       .takes = "ewwwwwe",
       .gives = "e",
       .inPlace = {{0, 6}},
       .accumulates = {{1, 1}, {2, 2}},
       .internal = true},
      {.name = "layerNorm",
       .inputs = {"x", "gamma", "beta"},
       .attributes = {"eps"},
       .infer = inferLayerNorm,
       .gradient = gradientLayerNorm,
       .lower = lowerLayerNorm,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "layerNormBackward",
       .inputs = {"x", "gamma", "beta", "mean", "rstd", "dy"},
       .infer = inferLayerNormBackward,
       .lower = lowerLayerNormBackward,
       .takes = "ewwwwe",
       .gives = "e",
       .inPlace = {{0, 5}},
       .accumulates = {{1, 1}, {2, 2}},
       .internal = true},
      {.name = "rmsNorm",
       .inputs = {"x", "gamma"},
       .attributes = {"eps"},
       .infer = inferRmsNorm,
       .gradient = gradientRmsNorm,
       .lower = lowerRmsNorm,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "rmsNormBackward",
       .inputs = {"x", "gamma", "rstd", "dy"},
       .attributes = {"eps"},
       .infer = inferRmsNormBackward,
       .lower = lowerRmsNormBackward,
       .takes = "ewwe",
       .gives = "e",
       .inPlace = {{0, 3}},
       .accumulates = {{1, 1}},
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
