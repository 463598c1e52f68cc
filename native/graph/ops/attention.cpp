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
  const int32_t heads = checkedHeads(call, q[3], " channels");
  return {{q}, {lseDims(q, heads)}};
}

AttentionShape separateShape(const Attributes& attributes, const Dims& q) {
  const int32_t heads = int32_t(attributes.integer("heads")), d = q[3] / heads;
  return {heads, d, d, d, d, float(attributes.number("scale"))};
}

void lowerAttention(Lowering& l) {
  l.run(Attention{l.in(0), l.in(1), l.in(2), l.out(0), l.out(1), separateShape(l.attributes(), l.inputDims(0))});
}

void gradientAttention(Gradient& g) {
  const auto d = g.emit("attentionBackward", {g.input(0), g.input(1), g.input(2), g.output(0), g.output(1), g.dy()},
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
                          .shape = separateShape(l.attributes(), l.inputDims(0))});
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
  l.run(Attention{v.view(qkv, 0), v.view(qkv, 1), v.view(qkv, 2), l.out(0), l.out(1), v.shape});
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

}  // namespace

const std::vector<OpDef>& attentionOps() {
  static const std::vector<OpDef> ops = {
      {.name = "attention",
       .inputs = {"q", "k", "v"},
       .attributes = {"heads", "scale"},
       .infer = inferAttention,
       .gradient = gradientAttention,
       .lower = lowerAttention,
       .takes = "nnn",
       .gives = "n"},
      {.name = "attentionBackward",
       .inputs = {"q", "k", "v", "y", "lse", "dy"},
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
  };
  return ops;
}

}  // namespace ddpm
