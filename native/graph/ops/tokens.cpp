// Tokens, which are the pixels of a value: {N,H,W,C} has H*W of them. They are copied: a sample of a part is not one
// piece of the whole's memory with those of other samples.
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

int32_t tokens(const Dims& d) { return d[1] * d[2]; }
int32_t tokens(const Tensor& t) { return t.h * t.w; }

// Tokens [start, start + count) of one sample.
Tensor part(const Tensor& t, int32_t sample, int32_t start, int32_t count) {
  Tensor p = t;
  p.data = static_cast<char*>(t.data) + (int64_t(sample) * tokens(t) + start) * t.ld * int64_t(sizeof(float));
  p.n = p.h = 1;
  p.w = count;
  return p;
}

// Tokens of x from `from` on to those of y from `to` on: one copy where both are dense, else one a sample.
void copyTokens(Lowering& l, const Tensor& x, int32_t from, const Tensor& y, int32_t to, int32_t count) {
  if (!x.dense() || !y.dense()) {
    for (int32_t n = 0; n < x.n; ++n) l.run(Copy{part(x, n, from, count), part(y, n, to, count), 0});
    return;
  }
  const auto flat = [&](const Tensor& t, int32_t start) {
    Tensor f = part(t, 0, start, 1);
    f.n = t.n;
    f.c = count * t.c;
    f.ld = tokens(t) * t.c;
    return f;
  };
  l.run(Copy{flat(x, from), flat(y, to), 0});
}

std::vector<ValueType> inferConcatTokens(const Call& call) {
  const Dims &a = call.dims(0), &b = call.dims(1);
  call.requireDType(0, DType::f32);
  call.requireDType(1, DType::f32);
  call.requireDims(1, {a[0], kAny, kAny, a[3]});
  const double count = double(a[1]) * a[2] + double(b[1]) * b[2];
  call.require(count * a[3] <= INT32_MAX, "b", "fewer than 2^31 elements a sample", std::to_string(count * a[3]));
  return {{{a[0], 1, int32_t(count), a[3]}}};
}
void lowerConcatTokens(Lowering& l) {
  const Tensor a = l.in(0), b = l.in(1), y = l.out(0);
  copyTokens(l, a, 0, y, 0, tokens(a));
  copyTokens(l, b, 0, y, tokens(a), tokens(b));
}
// In the dims of that input.
ValueId gradientOf(Gradient& g, size_t input, int32_t start) {
  const Dims& d = g.dims(g.input(input));
  return g.emit("sliceTokens", {g.dy()},
                {{"start", double(start)}, {"height", double(d[1])}, {"width", double(d[2])}})[0];
}
void gradientConcatTokens(Gradient& g) {
  if (g.wants(0)) g.give(0, gradientOf(g, 0, 0));
  if (g.wants(1)) g.give(1, gradientOf(g, 1, tokens(g.dims(g.input(0)))));
}

std::vector<ValueType> inferSliceTokens(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int32_t start = call.integer("start", 0), h = call.integer("height", 1), w = call.integer("width", 1);
  const double end = start + double(h) * w;
  call.require(end <= double(x[1]) * x[2], "start", "tokens within " + toString(x), std::to_string(end));
  return {{{x[0], h, w, x[3]}}};
}
void lowerSliceTokens(Lowering& l) {
  const Tensor y = l.out(0);
  copyTokens(l, l.in(0), int32_t(l.attributes().integer("start")), y, 0, tokens(y));
}
void gradientSliceTokens(Gradient& g) {
  const Dims& x = g.dims(g.input(0));
  const double start = double(g.attributes().integer("start"));
  g.give(0, g.emit("padTokens", {g.dy()}, {{"start", start}, {"height", double(x[1])}, {"width", double(x[2])}})[0]);
}

// x as the tokens from `start` on of zeros {N,height,width,C}.
std::vector<ValueType> inferPadTokens(const Call& call) {
  const Dims& x = call.dims(0);
  return {{{x[0], call.integer("height", 1), call.integer("width", 1), x[3]}}};
}
void lowerPadTokens(Lowering& l) {
  const Tensor x = l.in(0), y = l.out(0);
  l.run(Fill{y, 0.0f});
  copyTokens(l, x, 0, y, int32_t(l.attributes().integer("start")), tokens(x));
}

}  // namespace

const std::vector<OpDef>& tokenOps() {
  static const std::vector<OpDef> ops = {
      {.name = "concatTokens",
       .inputs = {"a", "b"},
       .infer = inferConcatTokens,
       .gradient = gradientConcatTokens,
       .lower = lowerConcatTokens},
      {.name = "sliceTokens",
       .inputs = {"x"},
       .attributes = {"start", "height", "width"},
       .infer = inferSliceTokens,
       .gradient = gradientSliceTokens,
       .lower = lowerSliceTokens},
      {.name = "padTokens",
       .inputs = {"x"},
       .attributes = {"start", "height", "width"},
       .infer = inferPadTokens,
       .lower = lowerPadTokens,
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
