// Attention over pixels as tokens (kernels/ops.h, Attention).
#include "native/graph/autodiff.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

// No more than q has elements, since heads divide channels.
Dims lseDims(const Dims& q, int32_t heads) { return {q[0], 1, 1, heads * q[1] * q[2]}; }

int32_t checkedHeads(const Call& call, int32_t channels, const char* what) {
  const int32_t heads = call.integer("heads", 1);
  call.require(channels % heads == 0, "heads", "a divisor of " + std::to_string(channels) + what,
               std::to_string(heads));
  call.real("scale");
  return heads;
}

std::vector<ValueType> inferAttention(const Call& call) {
  const Dims &q = call.dims(0), &k = call.dims(1);
  for (size_t i = 0; i < 3; ++i) call.requireDType(i, DType::f32);
  call.requireDims(1, {q[0], kAny, kAny, q[3]});
  call.requireDims(2, {k[0], k[1], k[2], q[3]});
  if (call.has(3)) {
    call.requireDType(3, DType::f32);
    call.requireDims(3, {call.dims(3)[0] == 1 ? 1 : q[0], q[1], q[2], k[1] * k[2]});
  }
  const int32_t heads = checkedHeads(call, q[3], " channels");
  return {{q}, {lseDims(q, heads)}};
}

AttentionShape separateShape(const Attributes& attributes, const Dims& q) {
  const int32_t heads = int32_t(attributes.integer("heads")), d = q[3] / heads;
  return {heads, d, d, d, d, float(attributes.number("scale"))};
}

void lowerAttention(Lowering& l) {
  l.run(Attention{.q = l.in(0),
                  .k = l.in(1),
                  .v = l.in(2),
                  .y = l.out(0),
                  .lse = l.out(1),
                  .shape = separateShape(l.attributes(), l.inputDims(0)),
                  .mask = l.in(3),
                  .products = l.products()});
}

void gradientAttention(Gradient& g) {
  const auto d =
      g.emit("attentionBackward", {g.input(0), g.input(1), g.input(2), g.output(0), g.output(1), g.dy(), g.input(3)},
             g.attributes());
  for (size_t i = 0; i < 3; ++i) g.give(i, d[i]);
}

std::vector<ValueType> inferAttentionBackward(const Call& call) {
  return {{call.dims(0)}, {call.dims(1)}, {call.dims(2)}};
}

void lowerAttentionBackward(Lowering& l) {
  l.run(AttentionBackward{.q = l.in(0),
                          .k = l.in(1),
                          .v = l.in(2),
                          .y = l.in(3),
                          .lse = l.in(4),
                          .dy = l.in(5),
                          .dq = l.out(0),
                          .dk = l.out(1),
                          .dv = l.out(2),
                          .shape = separateShape(l.attributes(), l.inputDims(0)),
                          .mask = l.in(6)});
}

// ---------------------------------------------------------------------------------------------------------------------
// q, k and v packed on the channels: three views of one tensor.

std::vector<ValueType> inferQkv(const Call& call) {
  Dims y = call.dims(0);
  call.requireDType(0, DType::f32);
  call.require(y[3] % 3 == 0, "qkv", "three times the channels of q", toString(y));
  call.choice("order", {"heads-first", "qkv-first"});
  y[3] /= 3;
  const int32_t heads = checkedHeads(call, y[3], " channels of q");
  return {{y}, {lseDims(y, heads)}};
}

struct QkvViews {
  AttentionShape shape;
  int32_t distance;  // between q and k, k and v
  int32_t extent;    // channels that a view reads, heads included

  QkvViews(const Attributes& attributes, const Dims& qkv) {
    const int32_t heads = int32_t(attributes.integer("heads")), c = qkv[3] / 3, d = c / heads;
    const bool headsFirst = attributes.string("order") == "heads-first";
    const int32_t head = headsFirst ? 3 * d : d;
    shape = {heads, d, head, head, head, float(attributes.number("scale"))};
    distance = headsFirst ? d : c;
    extent = (heads - 1) * head + d;
  }
  Tensor view(const Tensor& qkv, int32_t which) const { return channels(qkv, which * distance, extent); }
};

void lowerQkv(Lowering& l) {
  const QkvViews v(l.attributes(), l.inputDims(0));
  const Tensor qkv = l.in(0);
  l.run(Attention{.q = v.view(qkv, 0),
                  .k = v.view(qkv, 1),
                  .v = v.view(qkv, 2),
                  .y = l.out(0),
                  .lse = l.out(1),
                  .shape = v.shape,
                  .products = l.products()});
}

void gradientQkv(Gradient& g) {
  g.give(0, g.emit("attentionQkvBackward", {g.input(0), g.output(0), g.output(1), g.dy()}, g.attributes())[0]);
}

std::vector<ValueType> inferQkvBackward(const Call& call) { return {{call.dims(0)}}; }

void lowerQkvBackward(Lowering& l) {
  const QkvViews v(l.attributes(), l.inputDims(0));
  const Tensor qkv = l.in(0), d = l.out(0);
  l.run(AttentionBackward{.q = v.view(qkv, 0),
                          .k = v.view(qkv, 1),
                          .v = v.view(qkv, 2),
                          .y = l.in(1),
                          .lse = l.in(2),
                          .dy = l.in(3),
                          .dq = v.view(d, 0),
                          .dk = v.view(d, 1),
                          .dv = v.view(d, 2),
                          .shape = v.shape});
}

// ---------------------------------------------------------------------------------------------------------------------
// Linear attention, and tokens before those of x.

std::vector<ValueType> inferLinearAttention(const Call& call) {
  const Dims &q = call.dims(0), &k = call.dims(1);
  for (size_t i = 0; i < 3; ++i) call.requireDType(i, DType::f32);
  call.requireDims(1, {q[0], kAny, kAny, q[3]});
  call.requireDims(2, {k[0], k[1], k[2], q[3]});
  const int32_t heads = checkedHeads(call, q[3], " channels");
  const int64_t context = int64_t(q[3]) * (q[3] / heads);
  call.require(context <= INT32_MAX, "heads", "matrices of fewer than 2^31 elements", std::to_string(heads));
  std::vector<ValueType> types = {{q}, {{q[0], 1, 1, q[3]}}, {{q[0], 1, 1, int32_t(context)}}};
  if (call.attributes.boolean("querySoftmax")) types.push_back({{q[0], q[1], q[2], heads}});
  return types;
}

LinearAttentionShape linearShape(const Attributes& attributes, const Dims& q) {
  const int32_t heads = int32_t(attributes.integer("heads"));
  return {heads, q[3] / heads, float(attributes.number("scale")), attributes.boolean("querySoftmax")};
}

void lowerLinearAttention(Lowering& l) {
  const LinearAttentionShape shape = linearShape(l.attributes(), l.inputDims(0));
  l.run(LinearAttention{.q = l.in(0),
                        .k = l.in(1),
                        .v = l.in(2),
                        .y = l.out(0),
                        .keyLse = l.out(1),
                        .queryLse = shape.querySoftmax ? l.out(3) : Tensor{},
                        .context = l.out(2),
                        .shape = shape});
}

void gradientLinearAttention(Gradient& g) {
  const bool softmax = g.attributes().boolean("querySoftmax");
  const auto d = g.emit("linearAttentionBackward",
                        {g.input(0), g.input(1), g.input(2), g.output(0), g.output(1), g.output(2),
                         softmax ? g.output(3) : kAbsent, g.dy()},
                        g.attributes());
  for (size_t i = 0; i < 3; ++i) g.give(i, d[i]);
}

void lowerLinearAttentionBackward(Lowering& l) {
  l.run(LinearAttentionBackward{.q = l.in(0),
                                .k = l.in(1),
                                .v = l.in(2),
                                .y = l.in(3),
                                .keyLse = l.in(4),
                                .queryLse = l.in(6),
                                .context = l.in(5),
                                .dy = l.in(7),
                                .dq = l.out(0),
                                .dk = l.out(1),
                                .dv = l.out(2),
                                .shape = linearShape(l.attributes(), l.inputDims(0))});
}

std::vector<ValueType> inferPrependTokens(const Call& call) {
  const Dims &x = call.dims(0), &table = call.dims(1);
  for (size_t i = 0; i < 2; ++i) call.requireDType(i, DType::f32);
  call.requireDims(1, {kAny, 1, 1, kAny});
  call.require(table[3] % x[3] == 0, "table", "tokens of " + std::to_string(x[3]) + " channels", toString(table));
  call.integer("row", 0, table[0] - 1);
  const int64_t tokens = table[3] / x[3] + int64_t(x[1]) * x[2];
  call.require(tokens <= INT32_MAX, "x", "fewer than 2^31 tokens", toString(x));
  return {{{x[0], 1, int32_t(tokens), x[3]}}};
}
int32_t rowOf(const Lowering& l) { return int32_t(l.attributes().integer("row")); }
void lowerPrependTokens(Lowering& l) { l.run(PrependTokens{l.in(0), l.in(1), l.out(0), rowOf(l)}); }
void gradientPrependTokens(Gradient& g) {
  const auto d = g.emit("prependTokensBackward", {g.dy(), g.input(0), g.input(1)}, g.attributes());
  g.give(0, d[0]);
  g.giveAccumulated(1, d[1]);
}
std::vector<ValueType> inferPrependTokensBackward(const Call& call) { return {{call.dims(1)}, {call.dims(2)}}; }
void lowerPrependTokensBackward(Lowering& l) {
  l.run(PrependTokensBackward{l.in(0), l.out(0), l.accumulator(2, 1), rowOf(l)});
}

}  // namespace

const std::vector<OpDef>& attentionOps() {
  static const std::vector<OpDef> ops = {
      {.name = "attention",
       .inputs = {"q", "k", "v", "mask?"},
       .attributes = {"heads", "scale"},
       .infer = inferAttention,
       .gradient = gradientAttention,
       .lower = lowerAttention,
       .takes = "nnn",
       .gives = "n"},
      {.name = "attentionBackward",
       .inputs = {"q", "k", "v", "y", "lse", "dy", "mask?"},
       .attributes = {"heads", "scale"},
       .infer = inferAttentionBackward,
       .lower = lowerAttentionBackward,
       .takes = "nnnnwn",
       .gives = "nnn",
       .internal = true},
      {.name = "attentionQkv",
       .inputs = {"qkv"},
       .attributes = {"heads", "scale", "order"},
       .infer = inferQkv,
       .gradient = gradientQkv,
       .lower = lowerQkv,
       .takes = "n",
       .gives = "n"},
      {.name = "attentionQkvBackward",
       .inputs = {"qkv", "y", "lse", "dy"},
       .attributes = {"heads", "scale", "order"},
       .infer = inferQkvBackward,
       .lower = lowerQkvBackward,
       .takes = "nnwn",
       .gives = "n",
       .internal = true},
      {.name = "linearAttention",
       .inputs = {"q", "k", "v"},
       .attributes = {"heads", "scale", "querySoftmax"},
       .infer = inferLinearAttention,
       .gradient = gradientLinearAttention,
       .lower = lowerLinearAttention},
      {.name = "linearAttentionBackward",
       .inputs = {"q", "k", "v", "y", "keyLse", "context", "queryLse?", "dy"},
       .attributes = {"heads", "scale", "querySoftmax"},
       .infer = inferAttentionBackward,
       .lower = lowerLinearAttentionBackward,
       .internal = true},
      {.name = "prependTokens",
       .inputs = {"x", "table"},
       .attributes = {"row"},
       .infer = inferPrependTokens,
       .gradient = gradientPrependTokens,
       .lower = lowerPrependTokens},
      {.name = "prependTokensBackward",
       .inputs = {"dy", "x", "table"},
       .attributes = {"row"},
       .infer = inferPrependTokensBackward,
       .lower = lowerPrependTokensBackward,
       .accumulates = {{1, 2}},
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
