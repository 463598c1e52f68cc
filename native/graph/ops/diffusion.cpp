// The diffusion ops on flat samples (kernels/ops.h, Diffusion).
#include <cmath>
#include <limits>

#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

// A table [T, 1, 1, columns] and the timesteps of n samples that pick its rows.
void checkTable(const Call& call, size_t table, int32_t columns) {
  call.requireDType(table, DType::f32);
  call.requireDims(table, {kAny, 1, 1, columns});
}
void checkTimesteps(const Call& call, size_t t, int32_t n) {
  call.requireDType(t, DType::i32);
  call.requireDims(t, {n, 1, 1, 1});
}
void checkFlat(const Call& call, size_t i) {
  call.requireDType(i, DType::f32);
  call.requireDims(i, {kAny, 1, 1, kAny});
}
// The other operand of a sample: the same shape, or one for all samples.
void checkShared(const Call& call, size_t i, const Dims& x) {
  call.requireDType(i, DType::f32);
  call.requireDims(i, {call.dims(i)[0] == 1 ? 1 : x[0], 1, 1, x[3]});
}
void checkStream(const Call& call, size_t rng, size_t sample, size_t step, int32_t n) {
  call.requireDType(rng, DType::i32);
  call.requireDims(rng, {1, 1, 1, 4});
  for (size_t i : {sample, step}) {
    call.requireDType(i, DType::i32);
    call.requireDims(i, {n, 1, 1, 1});
  }
}

// timestepAffine: x, z?, a, b?, t
std::vector<ValueType> inferAffine(const Call& call) {
  const Dims& x = call.dims(0);
  checkFlat(call, 0);
  checkTable(call, 2, 1);
  checkTimesteps(call, 4, x[0]);
  call.require(call.has(1) == call.has(3), "b", call.has(1) ? "a value, as z is given" : "nothing, as z is absent",
               call.has(3) ? "a value" : "nothing");
  if (call.has(1)) {
    checkShared(call, 1, x);
    checkTable(call, 3, 1);
    call.requireDims(3, call.dims(2));
  }
  return {{x}};
}
void lowerAffine(Lowering& l) { l.run(TimestepAffine{l.in(0), l.in(1), l.in(2), l.in(3), l.in(4), l.out(0)}); }
void gradientAffine(Gradient& g) {
  const auto scaled = [&](ValueId table) {
    return g.emit("timestepAffine", {g.dy(), kAbsent, table, kAbsent, g.input(4)})[0];
  };
  if (g.wants(0)) g.give(0, scaled(g.input(2)));
  if (g.wants(1)) {
    const bool own = g.dims(g.input(1))[0] == g.dims(g.input(0))[0];
    if (!own)
      throw Failure::argumentOf("timestepAffine", "z", "a z for each sample, to have a gradient", "a shared one");
    g.give(1, scaled(g.input(3)));
  }
}

std::vector<ValueType> inferExtract(const Call& call) {
  checkTable(call, 0, 1);
  checkTimesteps(call, 1, kAny);
  return {{call.dims(1)}};
}
void lowerExtract(Lowering& l) { l.run(Extract{l.in(0), l.in(1), l.out(0)}); }

// posteriorStep: x, out, table, t, noise?, rng?, sample?, step?, scale? -> y, x0
std::vector<ValueType> inferPosterior(const Call& call) {
  const Dims& x = call.dims(0);
  checkFlat(call, 0);
  call.requireDType(1, DType::f32);
  call.requireDims(1, x);
  checkTable(call, 2, 8);
  checkTimesteps(call, 3, x[0]);
  call.attributes.boolean("clip");
  if (call.has(4)) checkShared(call, 4, x);
  const bool draws = call.has(5) || call.has(6) || call.has(7);
  call.require(!draws || !call.has(4), "noise", "either noise or a stream to draw it from", "both");
  if (draws) {
    call.require(call.has(5) && call.has(6) && call.has(7), "rng", "rng, sample and step", "some of them");
    checkStream(call, 5, 6, 7, x[0]);
  }
  if (call.has(8)) {
    call.requireDType(8, DType::f32);
    call.requireDims(8, {x[0], 1, 1, 1});
  }
  return {{x}, {x}};
}
void lowerPosterior(Lowering& l) {
  l.run(PosteriorStep{.x = l.in(0),
                      .out = l.in(1),
                      .table = l.in(2),
                      .t = l.in(3),
                      .noise = l.in(4),
                      .rng = l.in(5),
                      .sample = l.in(6),
                      .step = l.in(7),
                      .scale = l.in(8),
                      .y = l.out(0),
                      .x0 = l.optionalOut(1),
                      .clip = l.attributes().boolean("clip")});
}

// nextStep: step, table, t; writes the buffers that step and t are bound to.
std::vector<ValueType> inferNextStep(const Call& call) {
  const int32_t n = call.dims(0)[0];
  checkTimesteps(call, 0, n);
  call.requireDType(1, DType::i32);
  call.requireDims(1, {kAny, 1, 1, 1});
  checkTimesteps(call, 2, n);
  return {};
}
void lowerNextStep(Lowering& l) { l.run(NextStep{l.in(0), l.in(1), l.in(2)}); }

std::vector<ValueType> inferRescale(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(0, {kAny, 1, 1, kAny});
  call.requireDims(1, call.dims(0));
  call.number("amount", 0, 1);
  return {{call.dims(0)}};
}
void lowerRescale(Lowering& l) {
  l.run(RescaleGuidance{l.in(0), l.in(1), l.out(0), float(l.attributes().number("amount"))});
}

// absQuantile: of `ratio`, from the least (0) to the greatest (1) of the D values
std::vector<ValueType> inferQuantile(const Call& call) {
  checkFlat(call, 0);
  constexpr double greatest = std::numeric_limits<float>::max();
  call.number("ratio", 0, 1);
  call.number("most", call.number("least", 0, greatest), greatest);
  return {{{call.dims(0)[0], 1, 1, 1}}};
}
void lowerQuantile(Lowering& l) {
  const double position = l.attributes().number("ratio") * (l.in(0).c - 1);
  const double rank = std::floor(position);
  l.run(AbsQuantile{l.in(0), l.out(0), int32_t(rank), float(position - rank), float(l.attributes().number("least")),
                    float(l.attributes().number("most"))});
}

std::vector<ValueType> inferNoise(const Call& call) {
  const int32_t n = call.dims(1)[0];
  checkStream(call, 0, 1, 2, n);
  call.integer("purpose", 0);
  return {{{n, 1, 1, call.integer("d", 1)}}};
}
void lowerNoise(Lowering& l) {
  l.run(GaussianNoise{l.in(0), l.in(1), l.in(2), l.out(0), int32_t(l.attributes().integer("purpose"))});
}

}  // namespace

const std::vector<OpDef>& diffusionOps() {
  static const std::vector<OpDef> ops = {
      {.name = "timestepAffine",
       .inputs = {"x", "z?", "a", "b?", "t"},
       .infer = inferAffine,
       .gradient = gradientAffine,
       .lower = lowerAffine,
       .inPlace = {{0, 0}, {0, 1}}},
      {.name = "extract", .inputs = {"table", "t"}, .infer = inferExtract, .lower = lowerExtract},
      {.name = "posteriorStep",
       .inputs = {"x", "out", "table", "t", "noise?", "rng?", "sample?", "step?", "scale?"},
       .attributes = {"clip"},
       .infer = inferPosterior,
       .lower = lowerPosterior,
       .inPlace = {{0, 0}, {0, 1}, {1, 0}, {1, 1}},
       .results = 2},
      {.name = "nextStep",
       .inputs = {"step", "table", "t"},
       .infer = inferNextStep,
       .lower = lowerNextStep,
       .results = 0,
       .effect = true},
      {.name = "rescaleGuidance",
       .inputs = {"x", "reference"},
       .attributes = {"amount"},
       .infer = inferRescale,
       .lower = lowerRescale,
       .inPlace = {{0, 0}}},
      {.name = "absQuantile",
       .inputs = {"x"},
       .attributes = {"ratio", "least", "most"},
       .infer = inferQuantile,
       .lower = lowerQuantile},
      {.name = "gaussianNoise",
       .inputs = {"rng", "sample", "step"},
       .attributes = {"d", "purpose"},
       .infer = inferNoise,
       .lower = lowerNoise},
  };
  return ops;
}

}  // namespace ddpm
