// Nearest upsampling, pooling, filters that resample, bilinear resizing.
#include <algorithm>
#include <cmath>
#include <limits>

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

// ---- windows of any stride -----------------------------------------------------------------------------------------

std::vector<ValueType> inferPool(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int32_t kernel = call.integer("kernel", 1, 1 << 10), stride = call.integer("stride", 1, 1 << 10);
  const std::vector<double>& p = call.attributes.list("padding");
  call.require(p.size() == 4, "padding", "[top, left, bottom, right]", std::to_string(p.size()) + " numbers");
  for (double v : p) {
    call.require(v >= 0 && v <= kernel / 2 && v == double(int32_t(v)), "padding",
                 "integers from 0 to half of the kernel", std::to_string(v));
  }
  const auto outputs = [&](size_t side) {
    const int64_t padded = x[side + 1] + int64_t(p[side]) + int64_t(p[side + 2]);
    call.require(padded + stride <= INT32_MAX, "padding", "a padded map of fewer than 2^31 rows and columns",
                 std::to_string(padded));
    call.require(padded >= kernel, "x", "a padded map of at least " + std::to_string(kernel) + " squared", toString(x));
    return int32_t((padded - kernel) / stride + 1);
  };
  return {{{x[0], outputs(0), outputs(1), x[3]}}};
}

template <PoolType type>
void lowerPool(Lowering& l) {
  const Attributes& a = l.attributes();
  const std::vector<double>& padding = a.list("padding");
  l.run(Pool{.x = l.in(0),
             .y = l.out(0),
             .kernel = int32_t(a.integer("kernel")),
             .stride = int32_t(a.integer("stride")),
             .padTop = int32_t(padding[0]),
             .padLeft = int32_t(padding[1]),
             .type = type});
}

std::vector<ValueType> inferResize(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  return {{{x[0], call.integer("height", 1), call.integer("width", 1), x[3]}}};
}

void lowerResize(Lowering& l) { l.run(ResizeBilinear{l.in(0), l.out(0)}); }

// ---- filters -------------------------------------------------------------------------------------------------------

std::vector<ValueType> inferFir(const Call& call) {
  const Dims& x = call.dims(0);
  call.requireDType(0, DType::f32);
  const int64_t up = call.integer("up", 1, 1 << 10), down = call.integer("down", 1, 1 << 10);
  const std::vector<double>& taps = call.attributes.list("taps");
  call.require(!taps.empty() && taps.size() <= kMaxFirTaps, "taps", "1 to " + std::to_string(kMaxFirTaps) + " numbers",
               std::to_string(taps.size()));
  for (double v : taps) {
    call.require(std::abs(v) <= std::numeric_limits<float>::max(), "taps", "finite numbers", std::to_string(v));
  }
  const std::vector<double>& padding = call.attributes.list("padding");
  call.require(padding.size() == 4, "padding", "[top, left, bottom, right]",
               std::to_string(padding.size()) + " numbers");
  for (double v : padding) {
    call.require(std::abs(v) < (1 << 30) && v == double(int32_t(v)), "padding", "integers from -2^30 to 2^30",
                 std::to_string(v));
  }
  const auto outputs = [&](int side) {
    const int64_t padded = x[side + 1] * up + int64_t(padding[size_t(side)]) + int64_t(padding[size_t(side) + 2]);
    const int64_t most = std::max({padded, x[side + 1] * up, int64_t(std::abs(padding[size_t(side)]))});
    call.require(most + int64_t(taps.size()) + down <= INT32_MAX, "padding",
                 "a padded map of fewer than 2^31 rows and columns", std::to_string(most));
    call.require(padded >= int64_t(taps.size()), "padding",
                 "a padded map of at least " + std::to_string(taps.size()) + " squared", std::to_string(padded));
    return int32_t((padded - int64_t(taps.size())) / down + 1);
  };
  return {{{x[0], outputs(0), outputs(1), x[3]}}};
}

void lowerFir(Lowering& l) {
  const Attributes& a = l.attributes();
  const std::vector<double>&taps = a.list("taps"), &padding = a.list("padding");
  FirResample op{.x = l.in(0),
                 .y = l.out(0),
                 .up = int32_t(a.integer("up")),
                 .down = int32_t(a.integer("down")),
                 .top = int32_t(padding[0]),
                 .left = int32_t(padding[1]),
                 .count = int32_t(taps.size()),
                 .taps = {}};
  std::copy(taps.begin(), taps.end(), op.taps);
  l.run(op);
}

// dx[i] = sum over r of taps[r] dy[(i*up + top - r) / down], where that is whole: with the taps from the last to the
// first, a filter over dy with down - 1 zeros between its pixels, of which every up-th place is kept.
void gradientFir(Gradient& g) {
  Attributes a = g.attributes();
  const double up = a.number("up"), down = a.number("down");
  std::vector<double> taps = a.list("taps"), padding = a.list("padding");
  const double last = double(taps.size()) - 1;
  std::reverse(taps.begin(), taps.end());
  const Dims &x = g.dims(g.input(0)), &dy = g.dims(g.dy());
  for (size_t side = 0; side < 2; ++side) {
    const double before = last - padding[side];
    padding[side] = before;
    padding[side + 2] = (x[side + 1] - 1) * up + last + 1 - dy[side + 1] * down - before;
  }
  a.set("up", down);
  a.set("down", up);
  a.set("taps", taps);
  a.set("padding", padding);
  g.give(0, g.emit("firResample", {g.dy()}, a)[0]);
}

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
      {.name = "maxPool",
       .inputs = {"x"},
       .attributes = {"kernel", "stride", "padding"},
       .infer = inferPool,
       .lower = lowerPool<PoolType::max>,
       .takes = "e",
       .gives = "e"},
      {.name = "meanPool",
       .inputs = {"x"},
       .attributes = {"kernel", "stride", "padding"},
       .infer = inferPool,
       .lower = lowerPool<PoolType::mean>,
       .takes = "e",
       .gives = "e"},
      {.name = "resizeBilinear",
       .inputs = {"x"},
       .attributes = {"height", "width"},
       .infer = inferResize,
       .lower = lowerResize,
       .takes = "e",
       .gives = "e"},
      {.name = "firResample",
       .inputs = {"x"},
       .attributes = {"taps", "up", "down", "padding"},
       .infer = inferFir,
       .gradient = gradientFir,
       .lower = lowerFir,
       .takes = "e",
       .gives = "e"},
  };
  return ops;
}

}  // namespace ddpm
