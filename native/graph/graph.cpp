#include "native/graph/graph.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "native/graph/op.h"

namespace ddpm {

std::string toString(const Dims& dims) {
  std::string text = "[";
  for (int i = 0; i < 4; ++i) {
    text += (i ? ", " : "") + (dims[i] == kAny ? std::string("any") : std::to_string(dims[i]));
  }
  return text + "]";
}

const char* nameOf(DType dtype) {
  static const char* const names[] = {"f32", "f16", "bf16", "i32", "i8"};
  return names[int32_t(dtype)];
}

namespace {

std::string inputName(const OpDef& op, size_t i) {
  const size_t last = op.inputs.size() - 1;
  if (std::strcmp(op.inputs[last], "...") == 0 && i >= last) return op.inputs[last - 1];
  std::string name = op.inputs[i];
  if (name.back() == '?') name.pop_back();
  return name;
}

void checkInputs(const Graph& graph, const OpDef& op, const std::vector<ValueId>& inputs) {
  const bool variadic = !op.inputs.empty() && std::strcmp(op.inputs.back(), "...") == 0;
  const size_t named = op.inputs.size() - (variadic ? 1 : 0);
  if (inputs.size() > named && !variadic) {
    throw Failure::argumentOf(op.name, "inputs", "at most " + std::to_string(named), std::to_string(inputs.size()));
  }
  for (size_t i = 0; i < std::max(inputs.size(), named); ++i) {
    const bool absent = i >= inputs.size() || inputs[i] == kAbsent;
    const bool optional = i < named && std::string(op.inputs[i]).back() == '?';
    if (absent && !optional) throw Failure::argumentOf(op.name, inputName(op, i), "a value", "nothing");
    if (!absent) graph.check(inputs[i], op.name);
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

std::vector<ValueType> Graph::infer(const OpDef& op, const std::vector<ValueId>& inputs,
                                    const Attributes& attributes) const {
  checkInputs(*this, op, inputs);
  for (const auto& [name, value] : attributes.entries()) {
    const auto known = [&name = name](const char* a) { return name == a; };
    if (std::none_of(op.attributes.begin(), op.attributes.end(), known)) {
      throw Failure::argumentOf(op.name, name, "no such attribute", "one");
    }
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == kAbsent || int32_t(i) == op.weight || !isParameter(inputs[i])) continue;
    const DType dtype = value(inputs[i]).dtype;
    if (dtype != DType::f32)
      throw Failure::argumentOf(op.name, inputName(op, i), "f32", std::string(nameOf(dtype)) + " weights");
  }
  std::vector<ValueType> types = op.infer(Call(*this, op, inputs, attributes));
  for (const ValueType& t : types) {
    double product = 1;
    for (int32_t d : t.dims) product *= d;
    if (product > INT32_MAX || *std::min_element(t.dims.begin(), t.dims.end()) < 1) {
      throw Failure::argumentOf(op.name, "result", "from 1 to 2^31 - 1 elements", ddpm::toString(t.dims));
    }
  }
  return types;
}

std::vector<ValueId> Graph::add(const std::string& name, std::vector<ValueId> inputs, Attributes attributes) {
  const OpDef* op = findOp(name);
  if (!op || op->internal) throw Failure::argumentOf("graph", "op", "the name of an op", Failure::quoted(name));
  if (isRegionOpen() && op->effect) {
    throw Failure::argumentOf(name.c_str(), "op", "one that changes nothing, in what is computed again", name);
  }
  std::vector<ValueId> all = append(*op, std::move(inputs), std::move(attributes));
  all.resize(std::min<size_t>(all.size(), op->results));
  return all;
}

// Addresses (step.h) name 2^24 storages; a node has a few.
constexpr size_t kMostNodes = 1 << 18;

std::vector<ValueId> Graph::append(const OpDef& op, std::vector<ValueId> inputs, Attributes attributes) {
  if (nodes_.size() >= kMostNodes || inputs.size() > kMostNodes) {
    throw Failure::argumentOf("graph", "nodes", "at most " + std::to_string(kMostNodes), "more");
  }
  const std::vector<ValueType> types = infer(op, inputs, attributes);
  const int32_t index = int32_t(nodes_.size());
  std::vector<ValueId> outputs;
  for (const ValueType& t : types) {
    outputs.push_back(ValueId(values_.size()));
    values_.push_back({t.dims, t.dtype, index});
  }
  nodes_.push_back({&op, std::move(inputs), std::move(attributes), outputs, region_});
  return outputs;
}

void Graph::openRegion() {
  if (isRegionOpen()) throw Failure::argumentOf("graph", "region", "one at a time", "one within another");
  region_ = regions_++;
}

void Graph::closeRegion() {
  if (!isRegionOpen()) throw Failure::argumentOf("graph", "region", "an open one", "none");
  region_ = kNoRegion;
}

void Graph::rewrite(int32_t index, const OpDef& op, std::vector<ValueId> inputs, Attributes attributes) {
  const std::vector<ValueType> types = infer(op, inputs, attributes);
  Node& node = nodes_[index];
  node.outputs.resize(std::min(node.outputs.size(), types.size()));
  for (size_t i = 0; i < types.size(); ++i) {
    if (i == node.outputs.size()) {
      node.outputs.push_back(ValueId(values_.size()));
      values_.push_back({types[i].dims, types[i].dtype, index});
    }
    const Value& value = values_[node.outputs[i]];
    if (types[i].dims != value.dims || types[i].dtype != value.dtype) {
      throw Failure("internal", std::string("rewriting ") + node.op->name + " as " + op.name + " changes its values");
    }
  }
  node.op = &op;
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
}

const char* Graph::bankOf(ValueId v) const {
  static const OpDef* parameter = findOp("parameter");
  if (v == kAbsent || producer(v).op != parameter) return nullptr;
  return producer(v).attributes.flag("frozen") ? "frozen" : "weights";
}

bool Graph::isTrained(ValueId v) const {
  const char* bank = bankOf(v);
  return bank && std::strcmp(bank, "weights") == 0;
}

void Graph::check(ValueId v, const char* where) const {
  if (v < 0 || size_t(v) >= values_.size()) {
    throw Failure::argumentOf(where, "value", "a value of this graph", std::to_string(v));
  }
}

std::vector<int32_t> Graph::useCounts() const {
  std::vector<int32_t> uses(values_.size());
  for (const Node& node : nodes_) {
    for (ValueId v : node.inputs) {
      if (v != kAbsent) ++uses[v];
    }
  }
  return uses;
}

// ---------------------------------------------------------------------------------------------------------------------

void Call::require(bool ok, const std::string& argument, const std::string& expected,
                   const std::string& received) const {
  if (!ok) throw Failure::argumentOf(op_.name, argument, expected, received);
}

void Call::requireDims(size_t i, const Dims& expected) const {
  const Dims& d = dims(i);
  for (int k = 0; k < 4; ++k) {
    require(expected[k] == kAny || expected[k] == d[k], inputName(op_, i), ddpm::toString(expected), ddpm::toString(d));
  }
}

void Call::requireDType(size_t i, DType expected) const {
  require(dtype(i) == expected, inputName(op_, i), nameOf(expected), nameOf(dtype(i)));
}

int32_t Call::integer(const char* name, int64_t low, int64_t high) const {
  const int64_t v = attributes.integer(name);
  const std::string range = high == INT32_MAX
                                ? "an integer of at least " + std::to_string(low)
                                : "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  require(v >= low && v <= high, name, range, std::to_string(v));
  return int32_t(v);
}

double Call::number(const char* name, double low, double high) const {
  const double v = attributes.number(name);
  require(v >= low && v <= high, name, "a number from " + std::to_string(low) + " to " + std::to_string(high),
          std::to_string(v));
  return v;
}

float Call::real(const char* name) const {
  constexpr double most = std::numeric_limits<float>::max();
  return float(number(name, -most, most));
}

int32_t Call::choice(const char* name, const std::vector<std::string>& choices) const {
  const std::string& v = attributes.string(name);
  std::string expected;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == v) return int32_t(i);
    expected += (i ? " or '" : "'") + choices[i] + "'";
  }
  throw Failure::argumentOf(op_.name, name, expected, Failure::quoted(v));
}

// ---------------------------------------------------------------------------------------------------------------------

const OpDef* findOp(const std::string& name) {
  static const std::map<std::string, const OpDef*> table = [] {
    std::map<std::string, const OpDef*> t;
    for (const auto* group : {&sourceOps(), &convOps(), &normOps(), &attentionOps(), &activationOps(),
                              &elementwiseOps(), &resampleOps(), &layoutOps(), &tokenOps(), &embeddingOps(), &lossOps(),
                              &diffusionOps(), &varianceOps(), &latentOps(), &optimizerOps(), &rankOps()}) {
      for (const OpDef& op : *group) t[op.name] = &op;
    }
    return t;
  }();
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

const OpDef& opNamed(const std::string& name) {
  const OpDef* op = findOp(name);
  if (!op) throw Failure("internal", "no op is named " + name);
  return *op;
}

}  // namespace ddpm
