#include "native/graph/fuse.h"

#include <cstring>

#include "native/graph/op.h"

namespace ddpm {
namespace {

bool is(const Node& node, const char* op) { return std::strcmp(node.op->name, op) == 0; }

ValueId inputOf(const Node& node, size_t i) { return i < node.inputs.size() ? node.inputs[i] : kAbsent; }

// Whether v is a group norm that nobody else reads and that a node can still be fused into.
bool isOpenNorm(const Graph& graph, const std::vector<int32_t>& uses, ValueId v) {
  const Node& norm = graph.producer(v);
  return uses[v] == 1 && norm.outputs[0] == v && (is(norm, "groupNorm") || is(norm, "groupNormFused")) &&
         !norm.attributes.flag("silu");
}

void fuseIntoNorm(Graph& graph, const std::vector<int32_t>& uses, int32_t i) {
  const Node& node = graph.node(i);
  const bool silu = is(node, "silu");
  if ((!silu && !is(node, "scaleShift")) || !isOpenNorm(graph, uses, node.inputs[0])) return;
  const Node& norm = graph.producer(node.inputs[0]);
  ValueId e = inputOf(norm, 3);
  if (!silu) {
    if (e != kAbsent) return;
    e = node.inputs[1];
  }
  Attributes attributes = norm.attributes;
  attributes.set("silu", silu);
  graph.rewrite(i, opNamed("groupNormFused"), {norm.inputs[0], norm.inputs[1], norm.inputs[2], e}, attributes);
}

// --------------------------------------------------------------------------------------------------------------------

bool isConv(const Node& node) { return is(node, "conv2d") || is(node, "linear") || is(node, "conv2dSum"); }

constexpr size_t kSampleBias = 3, kResidual = 4, kDgradResidual = 2;

Attributes convAttributes(const Node& conv) {
  if (!is(conv, "linear")) return conv.attributes;
  return {{"stride", 1.0}, {"padding", std::vector<double>{0, 0, 0, 0}}};
}

void fuseUpsample(Graph& graph, int32_t i) {
  const Node& node = graph.node(i);
  const bool wgrad = is(node, "conv2dWgrad");
  if ((!wgrad && !is(node, "conv2d")) || node.attributes.integer("stride") != 1) return;
  const Node& upsample = graph.producer(node.inputs[0]);
  if (!is(upsample, "upsampleNearest") || upsample.attributes.integer("factor") != 2) return;
  std::vector<ValueId> inputs = node.inputs;
  inputs[0] = upsample.inputs[0];
  Attributes attributes = node.attributes;
  attributes.set("upsample", 2.0);
  graph.rewrite(i, opNamed(wgrad ? "conv2dWgrad" : "conv2dSum"), inputs, attributes);
}

// --------------------------------------------------------------------------------------------------------------------

void fuseSampleBias(Graph& graph, const std::vector<int32_t>& uses, int32_t i) {
  const Node& node = graph.node(i);
  if (!is(node, "addSample") || uses[node.inputs[0]] != 1) return;
  const Node& conv = graph.producer(node.inputs[0]);
  if (!isConv(conv) || inputOf(conv, kSampleBias) != kAbsent) return;
  graph.rewrite(i, opNamed("conv2dSum"),
                {conv.inputs[0], conv.inputs[1], inputOf(conv, 2), node.inputs[1], inputOf(conv, kResidual)},
                convAttributes(conv));
}

bool takesResidual(const Graph& graph, const std::vector<int32_t>& uses, ValueId v) {
  const Node& node = graph.producer(v);
  if (uses[v] != 1) return false;
  return (isConv(node) && inputOf(node, kResidual) == kAbsent) ||
         (is(node, "conv2dDgrad") && inputOf(node, kDgradResidual) == kAbsent);
}

// Of two candidates the later one, which was to run closest to the sum.
void fuseResidual(Graph& graph, const std::vector<int32_t>& uses, int32_t i) {
  const Node& node = graph.node(i);
  if (!is(node, "add")) return;
  ValueId conv = kAbsent, residual = kAbsent;
  for (size_t k = 0; k < 2; ++k) {
    const ValueId v = node.inputs[k];
    if (takesResidual(graph, uses, v) && v > conv) {
      conv = v;
      residual = node.inputs[1 - k];
    }
  }
  if (conv == kAbsent) return;
  const Node& producer = graph.producer(conv);
  const auto& in = producer.inputs;
  if (is(producer, "conv2dDgrad")) {
    graph.rewrite(i, opNamed("conv2dDgrad"), {in[0], in[1], residual}, producer.attributes);
  } else {
    graph.rewrite(i, opNamed("conv2dSum"),
                  {in[0], in[1], inputOf(producer, 2), inputOf(producer, kSampleBias), residual},
                  convAttributes(producer));
  }
}

}  // namespace

void fuseNorms(Graph& graph) {
  const std::vector<int32_t> uses = graph.useCounts();
  const int32_t count = int32_t(graph.nodes().size());
  for (int32_t i = 0; i < count; ++i) fuseIntoNorm(graph, uses, i);
}

void fuseUpsampling(Graph& graph) {
  const int32_t count = int32_t(graph.nodes().size());
  for (int32_t i = 0; i < count; ++i) fuseUpsample(graph, i);
}

void fuseSums(Graph& graph, const Region& region) {
  std::vector<int32_t> uses(graph.values().size());
  for (int32_t i : region.live) {
    for (ValueId v : graph.node(i).inputs) {
      if (v != kAbsent) ++uses[v];
    }
  }
  for (const auto& [name, v] : region.outputs) ++uses[v];
  for (int32_t i : region.live) {
    fuseSampleBias(graph, uses, i);
    fuseResidual(graph, uses, i);
  }
}

}  // namespace ddpm
