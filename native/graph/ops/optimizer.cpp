// Ops on the banks: flat buffers of all parameters (kernels/ops.h, Optimizer).
#include "native/graph/lower.h"

namespace ddpm {
namespace {

Tensor flat(Lowering& l, const char* bank) {
  return l.bank(bank, 0, {1, 1, 1, int32_t(l.attributes().integer("count"))});
}

void checkHyper(const Call& call) {
  call.integer("count", 1);
  call.requireDType(0, DType::f32);
  call.requireDims(0, {1, 1, 1, 16});
}

std::vector<ValueType> inferSumSquares(const Call& call) {
  call.integer("count", 1);
  return {{{1, 1, 1, 1}}};
}
void lowerSumSquares(Lowering& l) { l.run(SumSquares{flat(l, "grads"), l.out(0)}); }

std::vector<ValueType> inferUpdate(const Call& call) {
  checkHyper(call);
  call.requireDType(1, DType::f32);
  call.requireDims(1, {1, 1, 1, 1});
  return {};
}
void lowerAdamW(Lowering& l) {
  l.run(AdamW{.weight = flat(l, "weights"),
              .grad = flat(l, "grads"),
              .m = flat(l, "m"),
              .v = flat(l, "v"),
              .hyper = l.in(0),
              .sumSquares = l.in(1),
              .ema = l.attributes().flag("ema") ? flat(l, "ema") : Tensor{},
              .mirror = l.mirror(int32_t(l.attributes().integer("count")))});
}

void lowerLion(Lowering& l) {
  l.run(Lion{.weight = flat(l, "weights"),
             .grad = flat(l, "grads"),
             .m = flat(l, "m"),
             .hyper = l.in(0),
             .sumSquares = l.in(1),
             .ema = l.attributes().flag("ema") ? flat(l, "ema") : Tensor{},
             .mirror = l.mirror(int32_t(l.attributes().integer("count")))});
}

std::vector<ValueType> inferEma(const Call& call) {
  checkHyper(call);
  return {};
}
void lowerEma(Lowering& l) { l.run(Ema{flat(l, "ema"), flat(l, "weights"), l.in(0)}); }

std::vector<ValueType> inferZeroGrads(const Call& call) {
  call.integer("count", 1);
  return {};
}
void lowerZeroGrads(Lowering& l) { l.run(Fill{flat(l, "grads"), 0.0f}); }

// The gradient of a parameter that no kernel accumulates by itself.
std::vector<ValueType> inferAccumulate(const Call& call) { return {{call.dims(1)}}; }
void lowerAccumulate(Lowering& l) { l.run(Copy{l.in(0), l.accumulator(1, 0), 1}); }

}  // namespace

const std::vector<OpDef>& optimizerOps() {
  static const std::vector<OpDef> ops = {
      {.name = "gradSumSquares", .attributes = {"count"}, .infer = inferSumSquares, .lower = lowerSumSquares},
      {.name = "adamw",
       .inputs = {"hyper", "sumSquares"},
       .attributes = {"count", "ema"},
       .infer = inferUpdate,
       .lower = lowerAdamW,
       .results = 0,
       .effect = true},
      {.name = "lion",
       .inputs = {"hyper", "sumSquares"},
       .attributes = {"count", "ema"},
       .infer = inferUpdate,
       .lower = lowerLion,
       .results = 0,
       .effect = true},
      {.name = "ema",
       .inputs = {"hyper"},
       .attributes = {"count"},
       .infer = inferEma,
       .lower = lowerEma,
       .results = 0,
       .effect = true},
      {.name = "zeroGrads",
       .attributes = {"count"},
       .infer = inferZeroGrads,
       .lower = lowerZeroGrads,
       .results = 0,
       .effect = true},
      {.name = "accumulateGrad",
       .inputs = {"gradient", "parameter"},
       .infer = inferAccumulate,
       .lower = lowerAccumulate,
       .takes = "ee",
       .accumulates = {{0, 1}},
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
