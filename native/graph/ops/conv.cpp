// Convolution and linear layers, which are convolutions with one tap (kernels/ops.h, Conv2d).
#include <algorithm>

#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

enum Input : size_t { kX, kWeight, kBias, kSampleBias, kResidual };

struct Geometry {
  int32_t stride = 1, top = 0, left = 0, bottom = 0, right = 0, upsample = 1;
  ConvShape shape() const { return {stride, top, left, upsample}; }
};

Geometry geometryOf(const Attributes& attributes) {
  if (!attributes.has("stride")) return {};  // linear
  const std::vector<double>& p = attributes.list("padding");
  const int32_t upsample = attributes.has("upsample") ? int32_t(attributes.integer("upsample")) : 1;
  return {int32_t(attributes.integer("stride")), int32_t(p[0]), int32_t(p[1]), int32_t(p[2]), int32_t(p[3]), upsample};
}

Geometry checkedGeometry(const Call& call) {
  call.integer("stride", 1, 1 << 10);
  const std::vector<double>& p = call.attributes.list("padding");
  call.require(p.size() == 4, "padding", "[top, left, bottom, right]", std::to_string(p.size()) + " numbers");
  for (double v : p) {
    call.require(v >= 0 && v < (1 << 20) && v == double(int32_t(v)), "padding", "integers of at least 0",
                 std::to_string(v));
  }
  return geometryOf(call.attributes);
}

// Weights in another format were let through by the graph.
void requireF32(const Call& call) {
  for (size_t i = 0; i < call.inputs(); ++i) {
    if (call.has(i) && i != kWeight) call.requireDType(i, DType::f32);
  }
  call.require(call.dtype(kWeight) != DType::i32, "weight", "f32", "i32");
}

std::vector<ValueType> inferWith(const Call& call, const Geometry& g) {
  requireF32(call);
  const Dims &x = call.dims(kX), &w = call.dims(kWeight);
  call.requireDims(kWeight, {kAny, kAny, kAny, x[3]});
  const int64_t rows = int64_t(x[1]) * g.upsample + g.top + g.bottom, h = rows - w[1];
  const int64_t columns = int64_t(x[2]) * g.upsample + g.left + g.right, v = columns - w[2];
  // With a filter's extent to spare, since kernels reach so far beyond it in 32 bits.
  call.require(std::max(rows + w[1], columns + w[2]) + g.stride <= INT32_MAX, "padding",
               "a padded map of fewer than 2^31 rows and columns", std::to_string(std::max(rows, columns)));
  call.require(h >= 0 && v >= 0, "x", "a padded map of at least " + std::to_string(w[1]) + " x " + std::to_string(w[2]),
               toString(x));
  const Dims y = {x[0], int32_t(h / g.stride) + 1, int32_t(v / g.stride) + 1, w[0]};
  if (call.has(kBias)) call.requireDims(kBias, {1, 1, 1, w[0]});
  if (call.has(kSampleBias)) call.requireDims(kSampleBias, {x[0], 1, 1, w[0]});
  if (call.has(kResidual)) call.requireDims(kResidual, y);
  return {{y}};
}

std::vector<ValueType> inferConv(const Call& call) { return inferWith(call, checkedGeometry(call)); }

std::vector<ValueType> inferLinear(const Call& call) {
  call.requireDims(kWeight, {kAny, 1, 1, kAny});
  return inferWith(call, {});
}

void lowerConv(Lowering& l) {
  Conv2d op{.x = l.in(kX),
            .w = l.in(kWeight),
            .y = l.out(0),
            .bias = l.in(kBias),
            .sampleBias = l.in(kSampleBias),
            .residual = l.in(kResidual),
            .packed = nullptr,
            .shape = geometryOf(l.attributes()).shape(),
            .algo = {},
            .splits = 1,
            .scale = l.scales(kWeight)};
  const ConvPlan plan = l.plan(op, kWeight);
  op.algo = plan.algo;
  op.splits = plan.splits;
  op.packed = l.packed(kWeight, op.shape, ConvPass::forward, plan);
  l.run(op);
}

Attributes geometryAttributes(const Geometry& g) {
  return {{"stride", double(g.stride)},
          {"padding", std::vector<double>{double(g.top), double(g.left), double(g.bottom), double(g.right)}}};
}

// The weights' gradient first: it is the last to read x, whose memory is free before dx needs some.
void gradientConv(Gradient& g) {
  const Attributes geometry = geometryAttributes(geometryOf(g.attributes()));
  if (g.wants(kWeight) || g.wants(kBias)) {
    const auto d = g.emit("conv2dWgrad", {g.input(kX), g.dy(), g.input(kWeight), g.input(kBias)}, geometry);
    g.giveAccumulated(kWeight, d[0]);
    if (g.input(kBias) != kAbsent) g.giveAccumulated(kBias, d[1]);
  }
  if (g.wants(kX)) {
    Attributes a = geometry;
    const Dims& x = g.dims(g.input(kX));
    a.set("height", double(x[1]));
    a.set("width", double(x[2]));
    g.give(kX, g.emit("conv2dDgrad", {g.dy(), g.input(kWeight)}, a)[0]);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

std::vector<ValueType> inferDgrad(const Call& call) {
  const Dims &dy = call.dims(0), &w = call.dims(1);
  const Dims dx = {dy[0], call.integer("height", 1), call.integer("width", 1), w[3]};
  if (call.has(2)) call.requireDims(2, dx);
  return {{dx}};
}

void lowerDgrad(Lowering& l) {
  Conv2dDgrad op{.dy = l.in(0),
                 .w = l.in(1),
                 .dx = l.out(0),
                 .residual = l.in(2),
                 .packed = nullptr,
                 .shape = geometryOf(l.attributes()).shape(),
                 .algo = {},
                 .splits = 1,
                 .scale = l.scales(1)};
  const ConvPlan plan = l.plan(op, 1);
  op.algo = plan.algo;
  op.splits = plan.splits;
  op.packed = l.packed(1, op.shape, ConvPass::dgrad, plan);
  l.run(op);
}

std::vector<ValueType> inferWgrad(const Call& call) {
  std::vector<ValueType> types = {{call.dims(2)}};
  if (call.has(3)) types.push_back({call.dims(3)});
  return types;
}

void lowerWgrad(Lowering& l) {
  Conv2dWgrad op{.x = l.in(0),
                 .dy = l.in(1),
                 .dWeight = l.accumulator(2, 0),
                 .dBias = l.accumulator(3, 1),
                 .shape = geometryOf(l.attributes()).shape(),
                 .algo = {}};
  op.algo = l.plan(op);
  l.run(op);
}

}  // namespace

const std::vector<OpDef>& convOps() {
  static const std::vector<OpDef> ops = {
      {.name = "conv2d",
       .inputs = {"x", "weight", "bias?"},
       .attributes = {"stride", "padding"},
       .infer = inferConv,
       .gradient = gradientConv,
       .lower = lowerConv,
       .weight = 1,
       .takes = "nn",
       .gives = "e"},
      {.name = "linear",
       .inputs = {"x", "weight", "bias?"},
       .infer = inferLinear,
       .gradient = gradientConv,
       .lower = lowerConv,
       .weight = 1,
       .takes = "nn",
       .gives = "e"},
      // What fuse.cpp makes of a convolution, the upsampling of its input and what is added to its result. Made after
      // the gradients: it has none.
      {.name = "conv2dSum",
       .inputs = {"x", "weight", "bias?", "sampleBias?", "residual?"},
       .attributes = {"stride", "padding", "upsample"},
       .infer = inferConv,
       .lower = lowerConv,
       .weight = 1,
       .takes = "nn",
       .gives = "e",
       .inPlace = {{0, kResidual}},
       .internal = true},
      {.name = "conv2dDgrad",
       .inputs = {"dy", "weight", "residual?"},
       .attributes = {"stride", "padding", "height", "width"},
       .infer = inferDgrad,
       .lower = lowerDgrad,
       .weight = 1,
       .takes = "nn",
       .gives = "e",
       .inPlace = {{0, 2}},
       .internal = true},
      {.name = "conv2dWgrad",
       .inputs = {"x", "dy", "weight", "bias?"},
       .attributes = {"stride", "padding", "upsample"},
       .infer = inferWgrad,
       .lower = lowerWgrad,
       .takes = "nnee",
       .accumulates = {{0, 2}, {1, 3}},
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
