// Losses, one value a sample, and their weighted sum (kernels/ops.h, Losses).
#include <algorithm>
#include <limits>

#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

// In the order of LossType.
const std::vector<std::string> kTypes = {"l1", "l2", "huber", "smooth_l1", "pseudo_huber"};

LossType typeOf(const Attributes& attributes) {
  return LossType(std::find(kTypes.begin(), kTypes.end(), attributes.string("type")) - kTypes.begin());
}
float deltaOf(const Attributes& attributes) { return float(attributes.number("delta")); }

void checkPair(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(1, call.dims(0));
  call.choice("type", kTypes);
  call.number("delta", std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
}

std::vector<ValueType> inferLoss(const Call& call) {
  checkPair(call);
  return {{{call.dims(0)[0], 1, 1, 1}}};
}
void lowerLoss(Lowering& l) {
  l.run(Loss{l.in(0), l.in(1), l.out(0), typeOf(l.attributes()), deltaOf(l.attributes())});
}
void gradientLoss(Gradient& g) {
  if (g.wants(0)) g.give(0, g.emit("lossBackward", {g.input(0), g.input(1), g.dy()}, g.attributes())[0]);
  // Losses are even: the target's gradient is the same with the roles changed.
  if (g.wants(1)) g.give(1, g.emit("lossBackward", {g.input(1), g.input(0), g.dy()}, g.attributes())[0]);
}
std::vector<ValueType> inferLossBackward(const Call& call) { return {{call.dims(0)}}; }
void lowerLossBackward(Lowering& l) {
  l.run(LossBackward{l.in(0), l.in(1), l.in(2), l.out(0), typeOf(l.attributes()), deltaOf(l.attributes())});
}

std::vector<ValueType> inferElementLoss(const Call& call) {
  checkPair(call);
  return {{call.dims(0)}};
}
void lowerElementLoss(Lowering& l) {
  l.run(ElementLoss{l.in(0), l.in(1), l.out(0), typeOf(l.attributes()), deltaOf(l.attributes())});
}

std::vector<ValueType> inferCrossEntropy(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::i32);
  call.requireDims(0, {kAny, 1, 1, kAny});
  call.requireDims(1, {call.dims(0)[0], 1, 1, 1});
  return {{{call.dims(0)[0], 1, 1, 1}}};
}
void lowerCrossEntropy(Lowering& l) { l.run(CrossEntropy{l.in(0), l.in(1), l.out(0)}); }
void gradientCrossEntropy(Gradient& g) {
  g.give(0, g.emit("crossEntropyBackward", {g.input(0), g.input(1), g.dy()})[0]);
}
std::vector<ValueType> inferCrossEntropyBackward(const Call& call) { return {{call.dims(0)}}; }
void lowerCrossEntropyBackward(Lowering& l) { l.run(CrossEntropyBackward{l.in(0), l.in(1), l.in(2), l.out(0)}); }

std::vector<ValueType> inferWeightedSum(const Call& call) {
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(0, {kAny, 1, 1, 1});
  call.requireDims(1, call.dims(0));
  return {{{1, 1, 1, 1}}};
}
void lowerWeightedSum(Lowering& l) { l.run(WeightedSum{l.in(0), l.in(1), l.out(0)}); }
void gradientWeightedSum(Gradient& g) {
  for (size_t i = 0; i < 2; ++i) {
    if (g.wants(i)) g.give(i, g.emit("weightedSumBackward", {g.input(1 - i), g.dy()})[0]);
  }
}
std::vector<ValueType> inferWeightedSumBackward(const Call& call) { return {{call.dims(0)}}; }
void lowerWeightedSumBackward(Lowering& l) { l.run(WeightedSumBackward{l.in(0), l.in(1), l.out(0)}); }

}  // namespace

const std::vector<OpDef>& lossOps() {
  static const std::vector<OpDef> ops = {
      {.name = "loss",
       .inputs = {"pred", "target"},
       .attributes = {"type", "delta"},
       .infer = inferLoss,
       .gradient = gradientLoss,
       .lower = lowerLoss},
      {.name = "lossBackward",
       .inputs = {"pred", "target", "dLoss"},
       .attributes = {"type", "delta"},
       .infer = inferLossBackward,
       .lower = lowerLossBackward,
       .internal = true},
      {.name = "elementLoss",
       .inputs = {"pred", "target"},
       .attributes = {"type", "delta"},
       .infer = inferElementLoss,
       .lower = lowerElementLoss},
      {.name = "crossEntropy",
       .inputs = {"logits", "label"},
       .infer = inferCrossEntropy,
       .gradient = gradientCrossEntropy,
       .lower = lowerCrossEntropy},
      {.name = "crossEntropyBackward",
       .inputs = {"logits", "label", "dLoss"},
       .infer = inferCrossEntropyBackward,
       .lower = lowerCrossEntropyBackward,
       .internal = true},
      {.name = "weightedSum",
       .inputs = {"x", "weight"},
       .infer = inferWeightedSum,
       .gradient = gradientWeightedSum,
       .lower = lowerWeightedSum},
      {.name = "weightedSumBackward",
       .inputs = {"weight", "dy"},
       .infer = inferWeightedSumBackward,
       .lower = lowerWeightedSumBackward,
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
