// Table lookup, and embeddings of timesteps.
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::vector<ValueType> inferEmbedding(const Call& call) {
  call.requireDType(0, DType::i32);
  call.requireDims(0, {kAny, kAny, kAny, 1});
  call.requireDType(1, DType::f32);
  call.requireDims(1, {kAny, 1, 1, kAny});
  Dims y = call.dims(0);
  y[3] = call.dims(1)[3];
  return {{y}};
}
void lowerEmbedding(Lowering& l) { l.run(Embedding{l.in(0), l.in(1), l.out(0)}); }
void gradientEmbedding(Gradient& g) {
  g.giveAccumulated(1, g.emit("embeddingBackward", {g.input(0), g.dy(), g.input(1)})[0]);
}
std::vector<ValueType> inferEmbeddingBackward(const Call& call) { return {{call.dims(2)}}; }
void lowerEmbeddingBackward(Lowering& l) { l.run(EmbeddingBackward{l.in(0), l.in(1), l.accumulator(2, 0)}); }

std::vector<ValueType> inferTimestepEmbedding(const Call& call) {
  call.requireDims(0, {kAny, 1, 1, 1});
  const int32_t dim = call.integer("dim", 1);
  const float maxPeriod = call.real("maxPeriod");
  call.require(maxPeriod > 0, "maxPeriod", "a number above 0", std::to_string(maxPeriod));
  call.real("freqShift");
  call.attributes.boolean("sinFirst");
  return {{{call.dims(0)[0], 1, 1, dim}}};
}
void lowerTimestepEmbedding(Lowering& l) {
  const Attributes& a = l.attributes();
  l.run(TimestepEmbedding{l.in(0), l.out(0), float(a.number("maxPeriod")), float(a.number("freqShift")),
                          a.boolean("sinFirst")});
}

std::vector<ValueType> inferFourierEmbedding(const Call& call) {
  call.requireDims(0, {kAny, 1, 1, 1});
  call.requireDType(1, DType::f32);
  call.requireDims(1, {1, 1, 1, kAny});
  call.attributes.boolean("log");
  call.attributes.boolean("sinFirst");
  const int32_t half = call.dims(1)[3];
  call.require(half <= INT32_MAX / 2, "weight", "fewer than 2^30 numbers", std::to_string(half));
  return {{{call.dims(0)[0], 1, 1, 2 * half}}};
}
void lowerFourierEmbedding(Lowering& l) {
  const Attributes& a = l.attributes();
  l.run(FourierEmbedding{l.in(0), l.in(1), l.out(0), a.boolean("log"), a.boolean("sinFirst")});
}

}  // namespace

const std::vector<OpDef>& embeddingOps() {
  static const std::vector<OpDef> ops = {
      {.name = "embedding",
       .inputs = {"index", "table"},
       .infer = inferEmbedding,
       .gradient = gradientEmbedding,
       .lower = lowerEmbedding},
      {.name = "embeddingBackward",
       .inputs = {"index", "dy", "table"},
       .infer = inferEmbeddingBackward,
       .lower = lowerEmbeddingBackward,
       .accumulates = {{0, 2}},
       .internal = true},
      {.name = "fourierEmbedding",
       .inputs = {"t", "weight"},
       .attributes = {"log", "sinFirst"},
       .infer = inferFourierEmbedding,
       .lower = lowerFourierEmbedding},
      {.name = "timestepEmbedding",
       .inputs = {"t"},
       .attributes = {"dim", "maxPeriod", "freqShift", "sinFirst"},
       .infer = inferTimestepEmbedding,
       .lower = lowerTimestepEmbedding},
  };
  return ops;
}

}  // namespace ddpm
