// Surface layout (a sample as CHW) to inner layout (NHWC) and back.
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
      {.name = "toNchw", .inputs = {"x"}, .infer = inferToNchw, .gradient = gradientToNchw, .lower = lowerToNchw},
  };
  return ops;
}

}  // namespace ddpm
