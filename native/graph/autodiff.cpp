#include "native/graph/autodiff.h"

#include <algorithm>

#include "native/graph/fuse.h"

namespace ddpm {

std::vector<ValueId> backward(Graph& graph, ValueId loss, const std::vector<ValueId>& wrt) {
  graph.check(loss, "backward");
  const Value& l = graph.value(loss);
  if (l.dims != Dims{1, 1, 1, 1} || l.dtype != DType::f32) {
    throw Failure::argumentOf("backward", "loss", "a scalar, [1, 1, 1, 1]", toString(l.dims));
  }
  for (ValueId v : wrt) {
    graph.check(v, "backward");
    if (graph.isParameter(v)) {
      throw Failure::argumentOf("backward", "wrt", "values that are no parameters (theirs go to 'grads')",
                                "a parameter");
    }
    if (graph.value(v).dtype != DType::f32) throw Failure::argumentOf("backward", "wrt", "f32 values", "i32");
  }
  if (graph.isRegionOpen()) throw Failure::argumentOf("backward", "region", "none that is open", "one");
  fuseNorms(graph);
  return Gradient(graph, loss, wrt).run();
}

Gradient::Gradient(Graph& graph, ValueId loss, const std::vector<ValueId>& wrt)
    : graph_(graph),
      loss_(loss),
      wrt_(wrt),
      kept_(graph.values().size()),
      again_(graph.values().size(), kAbsent),
      pending_(graph.values().size()) {
  markWanted(wrt);
  markKept();
}

// A value's gradient is wanted where a parameter that is trained or one of `wrt` lies behind it.
void Gradient::markWanted(const std::vector<ValueId>& wrt) {
  wanted_.assign(graph_.values().size(), false);
  for (size_t v = 0; v < graph_.values().size(); ++v) {
    const DType dtype = graph_.value(ValueId(v)).dtype;
    if (dtype != DType::f32 && graph_.isTrained(ValueId(v)))
      throw Failure::argumentOf("backward", "weights", "f32 weights, where they are trained", nameOf(dtype));
  }
  for (ValueId v : wrt) wanted_[v] = true;
  for (const Node& node : graph_.nodes()) {
    bool any = false;
    for (ValueId v : node.inputs) any = any || (v != kAbsent && wanted_[v]);
    for (ValueId v : node.outputs) {
      if (graph_.value(v).dtype == DType::f32 && (any || graph_.isTrained(v))) wanted_[v] = true;
    }
  }
}

// What is read outside of a value's region has its memory until then anyway, or, as the next region's input, until that
// one is computed again.
void Gradient::markKept() {
  for (const Node& node : graph_.nodes()) {
    for (ValueId v : node.inputs) {
      if (v != kAbsent && graph_.producer(v).region != node.region) kept_[v] = true;
    }
  }
  for (ValueId v : wrt_) kept_[v] = true;
}

// The nodes once more (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"), right before the gradients
// that read them. Same ops, same inputs, same random numbers: the same bits. Those that nobody reads are dead.
void Gradient::recompute(int32_t region) {
  region_ = region;
  const int32_t count = int32_t(graph_.nodes().size());
  for (int32_t i = 0; i < count; ++i) {
    const Node node = graph_.node(i);  // a copy: the graph grows
    const bool isSource = node.inputs.empty();
    if (node.region != region || isSource) continue;
    const std::vector<ValueId> outputs = append(*node.op, node.inputs, node.attributes);
    for (size_t k = 0; k < outputs.size(); ++k) {
      if (!kept_[node.outputs[k]]) again_[node.outputs[k]] = outputs[k];
    }
  }
}

std::vector<ValueId> Gradient::run() {
  if (wanted_[loss_]) {
    const Attributes one = {{"dims", std::vector<double>{1, 1, 1, 1}}, {"value", 1.0}};
    contribute(loss_, emit("constant", {}, one)[0]);
  }
  for (int32_t i = graph_.value(loss_).node; i >= 0; --i) {
    node_ = graph_.node(i);
    bool any = false, reached = false;
    for (ValueId v : node_.inputs) any = any || (v != kAbsent && wanted_[v]);
    for (ValueId v : node_.outputs) reached = finish(v) != kAbsent || reached;
    if (!any || !reached) continue;
    if (node_.region != kNoRegion && node_.region != region_) recompute(node_.region);
    if (!node_.op->gradient) {
      throw Failure::argumentOf("backward", "loss", "a path of ops that have gradients", node_.op->name);
    }
    node_.op->gradient(*this);
  }
  std::vector<ValueId> gradients;
  for (ValueId v : wrt_) gradients.push_back(finish(v));
  return gradients;
}

bool Gradient::wants(size_t i) const { return input(i) != kAbsent && wanted_[input(i)]; }

ValueId Gradient::of(size_t output) const { return pending_[node_.outputs[output]].whole; }

std::vector<ValueId> Gradient::emit(const char* op, std::vector<ValueId> inputs, Attributes attributes) {
  return append(opNamed(op), std::move(inputs), std::move(attributes));
}

std::vector<ValueId> Gradient::append(const OpDef& op, std::vector<ValueId> inputs, Attributes attributes) {
  for (ValueId& v : inputs) {
    if (v != kAbsent && size_t(v) < again_.size() && again_[v] != kAbsent) v = again_[v];
  }
  return graph_.append(op, std::move(inputs), std::move(attributes));
}

void Gradient::give(size_t i, ValueId gradient) {
  if (!wants(i)) return;
  if (graph_.isParameter(input(i))) {
    emit("accumulateGrad", {gradient, input(i)});
  } else {
    contribute(input(i), gradient);
  }
}

void Gradient::giveChannels(size_t i, ValueId gradient, int32_t start) {
  if (!wants(i)) return;
  if (graph_.isParameter(input(i))) {
    const Attributes a = {{"start", double(start)}, {"channels", double(dims(input(i))[3])}};
    give(i, emit("padChannels", {gradient}, a)[0]);
  } else {
    pending_[input(i)].parts.push_back({gradient, start, dims(gradient)[3]});
  }
}

void Gradient::giveAccumulated(size_t i, ValueId gradient) {
  if (wants(i) && !graph_.isParameter(input(i))) contribute(input(i), gradient);
}

// Joined as they come, so that the memory of each is free at once.
void Gradient::contribute(ValueId v, ValueId gradient) {
  ValueId& whole = pending_[v].whole;
  whole = whole == kAbsent ? gradient : emit("add", {whole, gradient})[0];
}

// Slices that tile a value are its gradient's concatenation, which costs nothing; others are padded with zeros.
ValueId Gradient::finish(ValueId v) {
  std::vector<Part> parts = std::move(pending_[v].parts);
  pending_[v].parts.clear();
  if (parts.empty()) return pending_[v].whole;
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.start < b.start; });
  int32_t end = 0;
  bool tiles = true;
  for (const Part& p : parts) {
    tiles = tiles && p.start == end;
    end = p.start + p.count;
  }
  const int32_t c = dims(v)[3];
  if (tiles && end == c) {
    std::vector<ValueId> gradients;
    for (const Part& p : parts) gradients.push_back(p.gradient);
    contribute(v, emit("concat", gradients)[0]);
  } else {
    for (const Part& p : parts) {
      contribute(v, emit("padChannels", {p.gradient}, {{"start", double(p.start)}, {"channels", double(c)}})[0]);
    }
  }
  return pending_[v].whole;
}

}  // namespace ddpm
