// Surface layout (a sample as CHW) to inner layout (NHWC) and back; other dims for the same elements.
#include <cmath>

#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::vector<ValueType> inferToNhwc(const Call& call) {
  const int32_t c = call.integer("channels", 1), h = call.integer("height", 1), w = call.integer("width", 1);
  const double d = double(c) * h * w;
  call.requireDType(0, DType::f32);
  call.require(d <= INT32_MAX, "channels", "fewer than 2^31 elements a sample", std::to_string(d));
  call.requireDims(0, {kAny, 1, 1, int32_t(d)});
  return {{{call.dims(0)[0], h, w, c}}};
}

std::vector<ValueType> inferToNchw(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  return {{{x[0], 1, 1, int32_t(elements(x) / x[0])}}};
}

void lowerToNhwc(Lowering& l) { l.run(ToNhwc{l.in(0), l.out(0)}); }
void lowerToNchw(Lowering& l) { l.run(ToNchw{l.in(0), l.out(0)}); }

void gradientToNhwc(Gradient& g) { g.give(0, g.emit("toNchw", {g.dy()})[0]); }
void gradientToNchw(Gradient& g) {
  const Dims& x = g.dims(g.input(0));
  g.give(0, g.emit("toNhwc", {g.dy()},
                   {{"channels", double(x[3])}, {"height", double(x[1])}, {"width", double(x[2])}})[0]);
}

// The elements in their order, with other dims. One copy, since the result is dense (placement.cpp).
std::vector<ValueType> inferReshape(const Call& call) {
  call.requireDType(0, DType::f32);
  const std::vector<double>& list = call.attributes.list("dims");
  call.require(list.size() == 4, "dims", "[n, h, w, c]", std::to_string(list.size()) + " numbers");
  Dims y;
  double count = 1;
  for (int i = 0; i < 4; ++i) {
    call.require(list[i] >= 1 && list[i] <= INT32_MAX && list[i] == std::floor(list[i]), "dims",
                 "integers of at least 1", std::to_string(list[i]));
    y[i] = int32_t(list[i]);
    count *= list[i];
  }
  const int64_t expected = elements(call.dims(0));
  call.require(count == double(expected), "dims", std::to_string(expected) + " elements", toString(y));
  return {{y}};
}
void lowerReshape(Lowering& l) {
  const Tensor x = l.in(0);
  Tensor y = x;
  y.data = l.out(0).data;
  y.dtype = l.out(0).dtype;
  y.ld = y.c;
  l.run(Copy{x, y, 0});
}
void gradientReshape(Gradient& g) {
  const Dims& x = g.dims(g.input(0));
  const std::vector<double> dims(x.begin(), x.end());
  g.give(0, g.emit("reshape", {g.dy()}, {{"dims", dims}})[0]);
}

}  // namespace

const std::vector<OpDef>& layoutOps() {
  static const std::vector<OpDef> ops = {
      {.name = "toNhwc",
       .inputs = {"x"},
       .attributes = {"channels", "height", "width"},
       .infer = inferToNhwc,
       .gradient = gradientToNhwc,
       .lower = lowerToNhwc,
       .gives = "e"},
      {.name = "reshape",
       .inputs = {"x"},
       .attributes = {"dims"},
       .infer = inferReshape,
       .gradient = gradientReshape,
       .lower = lowerReshape,
       .takes = "e",
       .gives = "e"},
      {.name = "toNchw", .inputs = {"x"}, .infer = inferToNchw, .gradient = gradientToNchw, .lower = lowerToNchw},
  };
  return ops;
}

}  // namespace ddpm
