// SiLU, GELU, quick GELU, ReLU, tanh, GEGLU (kernels/ops.h, Unary and Geglu).
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::vector<ValueType> inferUnary(const Call& call) {
  call.requireDType(0, DType::f32);
  return {{call.dims(0)}};
}

template <Activation fn>
void lowerUnary(Lowering& l) {
  l.run(Unary{l.in(0), l.out(0), fn});
}

constexpr const char* backwardOf(Activation fn) {
  switch (fn) {
    case Activation::silu:
      return "siluBackward";
    case Activation::gelu:
      return "geluBackward";
    case Activation::relu:
      return "reluBackward";
    case Activation::quickGelu:
      return "quickGeluBackward";
    case Activation::tanh:
      return "tanhBackward";
  }
  return nullptr;
}

template <Activation fn>
void gradientUnary(Gradient& g) {
  g.give(0, g.emit(backwardOf(fn), {g.input(0), g.dy()})[0]);
}

template <Activation fn>
void lowerUnaryBackward(Lowering& l) {
  l.run(UnaryBackward{l.in(0), l.in(1), l.out(0), fn});
}

std::vector<ValueType> inferGeglu(const Call& call) {
  Dims y = call.dims(0);
  call.requireDType(0, DType::f32);
  call.require(y[3] % 2 == 0, "x", "an even number of channels", toString(y));
  y[3] /= 2;
  return {{y}};
}

void lowerGeglu(Lowering& l) { l.run(Geglu{l.in(0), l.out(0)}); }
void gradientGeglu(Gradient& g) { g.give(0, g.emit("gegluBackward", {g.input(0), g.dy()})[0]); }
void lowerGegluBackward(Lowering& l) { l.run(GegluBackward{l.in(0), l.in(1), l.out(0)}); }

}  // namespace

const std::vector<OpDef>& activationOps() {
  static const std::vector<OpDef> ops = {
      {.name = "silu",
       .inputs = {"x"},
       .infer = inferUnary,
       .gradient = gradientUnary<Activation::silu>,
       .lower = lowerUnary<Activation::silu>,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "siluBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerUnaryBackward<Activation::silu>,
       .takes = "ee",
       .gives = "e",
       .inPlace = {{0, 1}},
       .internal = true},
      {.name = "gelu",
       .inputs = {"x"},
       .infer = inferUnary,
       .gradient = gradientUnary<Activation::gelu>,
       .lower = lowerUnary<Activation::gelu>,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "geluBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerUnaryBackward<Activation::gelu>,
       .takes = "ee",
       .gives = "e",
       .inPlace = {{0, 1}},
       .internal = true},
      {.name = "relu",
       .inputs = {"x"},
       .infer = inferUnary,
       .gradient = gradientUnary<Activation::relu>,
       .lower = lowerUnary<Activation::relu>,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "reluBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerUnaryBackward<Activation::relu>,
       .takes = "ee",
       .gives = "e",
       .inPlace = {{0, 1}},
       .internal = true},
      {.name = "quickGelu",
       .inputs = {"x"},
       .infer = inferUnary,
       .gradient = gradientUnary<Activation::quickGelu>,
       .lower = lowerUnary<Activation::quickGelu>,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "quickGeluBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerUnaryBackward<Activation::quickGelu>,
       .takes = "ee",
       .gives = "e",
       .inPlace = {{0, 1}},
       .internal = true},
      {.name = "tanh",
       .inputs = {"x"},
       .infer = inferUnary,
       .gradient = gradientUnary<Activation::tanh>,
       .lower = lowerUnary<Activation::tanh>,
       .takes = "e",
       .gives = "e",
       .inPlace = {{0, 0}}},
      {.name = "tanhBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerUnaryBackward<Activation::tanh>,
       .takes = "ee",
       .gives = "e",
       .inPlace = {{0, 1}},
       .internal = true},
      {.name = "geglu",
       .inputs = {"x"},
       .infer = inferGeglu,
       .gradient = gradientGeglu,
       .lower = lowerGeglu,
       .takes = "e",
       .gives = "e"},
      {.name = "gegluBackward",
       .inputs = {"x", "dy"},
       .infer = inferUnary,
       .lower = lowerGegluBackward,
       .takes = "ee",
       .gives = "e",
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
