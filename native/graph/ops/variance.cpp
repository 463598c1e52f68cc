// Learned variances, on flat samples (kernels/ops.h, Learned variances).
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

// Inputs `flat` [n, 1, 1, d], then a table [T, 1, 1, 4] and the timesteps of n samples that pick its rows.
void checkInputs(const Call& call, std::initializer_list<size_t> flat, size_t table) {
  const Dims& first = call.dims(*flat.begin());
  for (size_t i : flat) {
    call.requireDType(i, DType::f32);
    call.requireDims(i, {first[0], 1, 1, first[3]});
  }
  call.requireDType(table, DType::f32);
  call.requireDims(table, {kAny, 1, 1, 4});
  call.requireDType(table + 1, DType::i32);
  call.requireDims(table + 1, {first[0], 1, 1, 1});
}

// varianceNoise: x, v, table, t, noise
std::vector<ValueType> inferNoise(const Call& call) {
  const Dims& x = call.dims(0);
  checkInputs(call, {0, 1}, 2);
  call.requireDType(4, DType::f32);
  call.requireDims(4, {call.dims(4)[0] == 1 ? 1 : x[0], 1, 1, x[3]});
  return {{x}};
}
void lowerNoise(Lowering& l) { l.run(VarianceNoise{l.in(0), l.in(1), l.in(2), l.in(3), l.in(4), l.out(0)}); }

// variationalLoss: mean, trueMean, x0, v, table, t
std::vector<ValueType> inferLoss(const Call& call) {
  checkInputs(call, {0, 1, 2, 3}, 4);
  return {{{call.dims(0)[0], 1, 1, 1}}};
}
void lowerLoss(Lowering& l) { l.run(VariationalLoss{l.in(0), l.in(1), l.in(2), l.in(3), l.in(4), l.in(5), l.out(0)}); }
// Of v alone: with it only the variance is trained (Nichol & Dhariwal 2021, section 3.1).
void gradientLoss(Gradient& g) {
  if (!g.wants(3)) return;
  const auto dV = g.emit("variationalLossBackward",
                         {g.input(0), g.input(1), g.input(2), g.input(3), g.input(4), g.input(5), g.dy()});
  g.give(3, dV[0]);
}
std::vector<ValueType> inferLossBackward(const Call& call) { return {{call.dims(3)}}; }
void lowerLossBackward(Lowering& l) {
  l.run(VariationalLossBackward{l.in(0), l.in(1), l.in(2), l.in(3), l.in(4), l.in(5), l.in(6), l.out(0)});
}

}  // namespace

const std::vector<OpDef>& varianceOps() {
  static const std::vector<OpDef> ops = {
      {.name = "varianceNoise",
       .inputs = {"x", "v", "table", "t", "noise"},
       .infer = inferNoise,
       .lower = lowerNoise,
       .inPlace = {{0, 0}}},
      {.name = "variationalLoss",
       .inputs = {"mean", "trueMean", "x0", "v", "table", "t"},
       .infer = inferLoss,
       .gradient = gradientLoss,
       .lower = lowerLoss},
      {.name = "variationalLossBackward",
       .inputs = {"mean", "trueMean", "x0", "v", "table", "t", "dLoss"},
       .infer = inferLossBackward,
       .lower = lowerLossBackward,
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
