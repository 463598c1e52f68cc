// Nearest upsampling and average pooling.
#include <algorithm>

#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::vector<ValueType> inferUpsample(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int32_t factor = call.integer("factor", 1);
  const int64_t side = int64_t(std::max(x[1], x[2])) * factor;
  call.require(side <= INT32_MAX, "factor", "a map of fewer than 2^31 rows and columns", std::to_string(side));
  return {{{x[0], x[1] * factor, x[2] * factor, x[3]}}};
}

std::vector<ValueType> inferAvgPool(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int32_t kernel = call.integer("kernel", 1);
  call.require(x[1] >= kernel && x[2] >= kernel, "x", "a map of at least " + std::to_string(kernel) + " squared",
               toString(x));
  return {{{x[0], x[1] / kernel, x[2] / kernel, x[3]}}};
}

// The gradient's shape is x's, which dy does not tell where rows were dropped.
std::vector<ValueType> inferBackward(const Call& call) {
  const Dims& dy = call.dims(0);
  return {{{dy[0], call.integer("height", 1), call.integer("width", 1), dy[3]}}};
}

int32_t factorOf(Lowering& l) { return int32_t(l.attributes().integer("factor")); }
int32_t kernelOf(Lowering& l) { return int32_t(l.attributes().integer("kernel")); }

void lowerUpsample(Lowering& l) { l.run(UpsampleNearest{l.in(0), l.out(0), factorOf(l)}); }
void lowerUpsampleBackward(Lowering& l) { l.run(UpsampleNearestBackward{l.in(0), l.out(0), factorOf(l)}); }
void lowerAvgPool(Lowering& l) { l.run(AvgPool{l.in(0), l.out(0), kernelOf(l)}); }
void lowerAvgPoolBackward(Lowering& l) { l.run(AvgPoolBackward{l.in(0), l.out(0), kernelOf(l)}); }

void giveBackward(Gradient& g, const char* op) {
  Attributes a = g.attributes();
  const Dims& x = g.dims(g.input(0));
  a.set("height", double(x[1]));
  a.set("width", double(x[2]));
  g.give(0, g.emit(op, {g.dy()}, a)[0]);
}
void gradientUpsample(Gradient& g) { giveBackward(g, "upsampleNearestBackward"); }
void gradientAvgPool(Gradient& g) { giveBackward(g, "avgPoolBackward"); }

}  // namespace

const std::vector<OpDef>& resampleOps() {
  static const std::vector<OpDef> ops = {
      {.name = "upsampleNearest",
       .inputs = {"x"},
       .attributes = {"factor"},
       .infer = inferUpsample,
       .gradient = gradientUpsample,
       .lower = lowerUpsample,
       .takes = "e",
       .gives = "e"},
      {.name = "upsampleNearestBackward",
       .inputs = {"dy"},
       .attributes = {"factor", "height", "width"},
       .infer = inferBackward,
       .lower = lowerUpsampleBackward,
       .takes = "e",
       .gives = "e",
       .internal = true},
      {.name = "avgPool",
       .inputs = {"x"},
       .attributes = {"kernel"},
       .infer = inferAvgPool,
       .gradient = gradientAvgPool,
       .lower = lowerAvgPool,
       .takes = "e",
       .gives = "e"},
      {.name = "avgPoolBackward",
       .inputs = {"dy"},
       .attributes = {"kernel", "height", "width"},
       .infer = inferBackward,
       .lower = lowerAvgPoolBackward,
       .takes = "e",
       .gives = "e",
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
