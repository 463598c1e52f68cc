// Sums, scale-shift, concatenation and slices of channels, dropout.
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::vector<ValueType> inferAdd(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(1, call.dims(0));
  return {{call.dims(0)}};
}
void lowerAdd(Lowering& l) { l.run(Add{l.in(0), l.in(1), l.out(0)}); }
void gradientAdd(Gradient& g) {
  g.give(0, g.dy());
  g.give(1, g.dy());
}

std::vector<ValueType> inferAddSample(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(1, {x[0], 1, 1, x[3]});
  return {{x}};
}
void lowerAddSample(Lowering& l) { l.run(AddSample{l.in(0), l.in(1), l.out(0)}); }
void gradientAddSample(Gradient& g) {
  if (g.wants(1)) g.give(1, g.emit("sumPixels", {g.dy()})[0]);
  g.give(0, g.dy());
}

std::vector<ValueType> inferSumPixels(const Call& call) {
  const Dims& x = call.dims(0);
  return {{{x[0], 1, 1, x[3]}}};
}
void lowerSumPixels(Lowering& l) { l.run(SumPixels{l.in(0), l.out(0)}); }

std::vector<ValueType> inferDivSample(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int32_t samples = call.dims(1)[0] == 1 ? 1 : x[0];
  call.requireDims(1, {samples, 1, 1, 1});
  return {{x}};
}
void lowerDivSample(Lowering& l) { l.run(DivSample{l.in(0), l.in(1), l.out(0)}); }
void gradientDivSample(Gradient& g) {
  if (g.wants(0)) g.give(0, g.emit("divSample", {g.dy(), g.input(1)})[0]);
}

std::vector<ValueType> inferScaleShift(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.require(x[3] <= INT32_MAX / 2, "x", "fewer than 2^30 channels", toString(x));
  call.requireDims(1, {x[0], 1, 1, 2 * x[3]});
  return {{x}};
}
void lowerScaleShift(Lowering& l) { l.run(ScaleShift{l.in(0), l.in(1), l.out(0)}); }
void gradientScaleShift(Gradient& g) {
  const auto d = g.emit("scaleShiftBackward", {g.input(0), g.input(1), g.dy()});
  g.give(0, d[0]);
  g.give(1, d[1]);
}
std::vector<ValueType> inferScaleShiftBackward(const Call& call) { return {{call.dims(0)}, {call.dims(1)}}; }
void lowerScaleShiftBackward(Lowering& l) { l.run(ScaleShiftBackward{l.in(0), l.in(1), l.in(2), l.out(0), l.out(1)}); }

// ---------------------------------------------------------------------------------------------------------------------
// Concatenation and slices. Both are views wherever placement.h can make them so; what is left is copied.

std::vector<ValueType> inferConcat(const Call& call) {
  Dims y = call.dims(0);
  int64_t c = 0;
  for (size_t i = 0; i < call.inputs(); ++i) {
    call.requireDims(i, {y[0], y[1], y[2], kAny});
    call.requireDType(i, DType::f32);
    c += call.dims(i)[3];
  }
  call.require(c <= INT32_MAX, "values", "fewer than 2^31 channels", std::to_string(c));
  y[3] = int32_t(c);
  return {{y}};
}
void lowerConcat(Lowering& l) {
  int32_t start = 0;
  for (size_t i = 0; i < l.inputCount(); ++i) {
    const Tensor x = l.in(i);
    if (!l.isInPlace(i, start)) l.run(Copy{x, channels(l.out(0), start, x.c), 0});
    start += x.c;
  }
}
void gradientConcat(Gradient& g) {
  int32_t start = 0;
  for (size_t i = 0; g.input(i) != kAbsent; ++i) {
    const int32_t count = g.dims(g.input(i))[3];
    if (g.wants(i)) g.give(i, g.emit("slice", {g.dy()}, {{"start", double(start)}, {"count", double(count)}})[0]);
    start += count;
  }
}

std::vector<ValueType> inferSlice(const Call& call) {
  Dims y = call.dims(0);
  const int32_t start = call.integer("start", 0), count = call.integer("count", 1);
  call.require(int64_t(start) + count <= y[3], "count", "channels within " + toString(y),
               std::to_string(start) + " + " + std::to_string(count));
  y[3] = count;
  return {{y, call.dtype(0)}};
}
void gradientSlice(Gradient& g) { g.giveChannels(0, g.dy(), int32_t(g.attributes().integer("start"))); }

// x in channels [start, ...) of zeros: the gradient of a slice where the slices do not cover everything.
std::vector<ValueType> inferPadChannels(const Call& call) {
  Dims y = call.dims(0);
  y[3] = call.integer("channels", y[3]);
  return {{y}};
}
void lowerPadChannels(Lowering& l) {
  const Tensor x = l.in(0), y = l.out(0);
  l.run(Fill{y, 0.0f});
  l.run(Copy{x, channels(y, int32_t(l.attributes().integer("start")), x.c), 0});
}

// ---------------------------------------------------------------------------------------------------------------------

std::vector<ValueType> inferDropout(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::i32);
  call.requireDims(1, {1, 1, 1, 4});
  const double p = call.number("p", 0, 1);
  call.require(float(p) < 1, "p", "a probability below 1", std::to_string(p));
  call.integer("layer", 0);
  return {{call.dims(0)}};
}
void lowerDropout(Lowering& l) {
  l.run(
      Dropout{l.in(0), l.in(1), l.out(0), float(l.attributes().number("p")), int32_t(l.attributes().integer("layer"))});
}
// The mask is drawn again: nothing is kept.
void gradientDropout(Gradient& g) { g.give(0, g.emit("dropout", {g.dy(), g.input(1)}, g.attributes())[0]); }

// ---------------------------------------------------------------------------------------------------------------------
// Changes of dtype, in programs of mixed precision only (precision.h). `round` is for graphs: x as narrow numbers hold
// it, and the same for its gradient; in a program of precision fp32 it changes nothing.

std::vector<ValueType> inferRound(const Call& call) {
  call.requireDType(0, DType::f32);
  return {{call.dims(0)}};
}
std::vector<ValueType> inferCast(const Call& call) { return {{call.dims(0)}}; }
void lowerCast(Lowering& l) { l.run(Copy{l.in(0), l.out(0), 0}); }
void gradientRound(Gradient& g) { g.give(0, g.emit("round", {g.dy()})[0]); }

// y = x, whose gradient goes to `through` instead, where that is given (Bengio et al. 2013).
std::vector<ValueType> inferStraightThrough(const Call& call) {
  call.requireDType(0, DType::f32);
  if (call.has(1)) {
    call.requireDType(1, DType::f32);
    call.requireDims(1, call.dims(0));
  }
  return {{call.dims(0)}};
}
void gradientStraightThrough(Gradient& g) {
  if (g.wants(1)) g.give(1, g.dy());
}

}  // namespace

const std::vector<OpDef>& elementwiseOps() {
  static const std::vector<OpDef> ops = {
      {.name = "add",
       .inputs = {"a", "b"},
       .infer = inferAdd,
       .gradient = gradientAdd,
       .lower = lowerAdd,
       .inPlace = {{0, 0}, {0, 1}}},
      {.name = "addSample",
       .inputs = {"x", "e"},
       .infer = inferAddSample,
       .gradient = gradientAddSample,
       .lower = lowerAddSample,
       .inPlace = {{0, 0}}},
      {.name = "sumPixels",
       .inputs = {"x"},
       .infer = inferSumPixels,
       .lower = lowerSumPixels,
       .takes = "e",
       .gives = "e",
       .internal = true},
      {.name = "divSample",
       .inputs = {"x", "d"},
       .infer = inferDivSample,
       .gradient = gradientDivSample,
       .lower = lowerDivSample,
       .inPlace = {{0, 0}}},
      {.name = "scaleShift",
       .inputs = {"x", "e"},
       .infer = inferScaleShift,
       .gradient = gradientScaleShift,
       .lower = lowerScaleShift,
       .inPlace = {{0, 0}}},
      {.name = "scaleShiftBackward",
       .inputs = {"x", "e", "dy"},
       .infer = inferScaleShiftBackward,
       .lower = lowerScaleShiftBackward,
       .inPlace = {{0, 2}},
       .internal = true},
      {.name = "concat",
       .inputs = {"values", "..."},
       .infer = inferConcat,
       .gradient = gradientConcat,
       .lower = lowerConcat},
      {.name = "slice",
       .inputs = {"x"},
       .attributes = {"start", "count"},
       .infer = inferSlice,
       .gradient = gradientSlice},
      {.name = "padChannels",
       .inputs = {"x"},
       .attributes = {"start", "channels"},
       .infer = inferPadChannels,
       .lower = lowerPadChannels,
       .internal = true},
      {.name = "dropout",
       .inputs = {"x", "rng"},
       .attributes = {"p", "layer"},
       .infer = inferDropout,
       .gradient = gradientDropout,
       .lower = lowerDropout,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "round",
       .inputs = {"x"},
       .infer = inferRound,
       .gradient = gradientRound,
       .lower = lowerCast,
       .takes = "n",
       .gives = "e"},
      {.name = "straightThrough",
       .inputs = {"x", "through?"},
       .infer = inferStraightThrough,
       .gradient = gradientStraightThrough,
       .lower = lowerCast},
      {.name = "cast", .inputs = {"x"}, .infer = inferCast, .lower = lowerCast, .internal = true},
  };
  return ops;
}

}  // namespace ddpm
