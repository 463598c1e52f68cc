// The graph: nodes in the order in which they were added, which is an order in which they can run, and the values that
// they give. Both are named by their index.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "native/graph/attributes.h"

namespace ddpm {

struct OpDef;

using Dims = std::array<int32_t, 4>;  // n, h, w, c
using ValueId = int32_t;
constexpr ValueId kAbsent = -1;
constexpr int32_t kNoRegion = -1;

std::string toString(const Dims& dims);
const char* nameOf(DType dtype);  // f32, f16, bf16, i32, i8

// Formats of weights (kernels/ops.h), by their names in JavaScript.
struct WeightFormat {
  DType dtype;
  const char* name;
};
constexpr WeightFormat kWeightFormats[] = {
    {DType::f32, "fp32"}, {DType::f16, "fp16"}, {DType::bf16, "bf16"}, {DType::i8, "int8"}};

inline int64_t elements(const Dims& d) { return int64_t(d[0]) * d[1] * d[2] * d[3]; }

struct ValueType {
  Dims dims;
  DType dtype = DType::f32;
};

struct Value {
  Dims dims;
  DType dtype;
  int32_t node;
};

struct Node {
  const OpDef* op;
  std::vector<ValueId> inputs;  // kAbsent where an optional one is absent
  Attributes attributes;
  std::vector<ValueId> outputs;
  int32_t region = kNoRegion;  // the one that it was added in
};

class Graph {
 public:
  // Adds a node of the public op `name` and returns its public values. Throws invalid-argument.
  std::vector<ValueId> add(const std::string& name, std::vector<ValueId> inputs, Attributes attributes);

  // The same for the compiler's own ops too; returns all values.
  std::vector<ValueId> append(const OpDef& op, std::vector<ValueId> inputs, Attributes attributes);

  // What is added between the two is a region: `backward` computes its values again where it needs them, so that they
  // need no memory until then. Throws invalid-argument where one is open already, or none.
  void openRegion();
  void closeRegion();
  bool isRegionOpen() const { return region_ != kNoRegion; }

  // Turns a node into one that gives the same values: as many of them as its new op has.
  void rewrite(int32_t node, const OpDef& op, std::vector<ValueId> inputs, Attributes attributes);

  // For the choice of precision (precision.h).
  void setDType(ValueId v, DType dtype) { values_[v].dtype = dtype; }
  void setInput(int32_t node, size_t i, ValueId v) { nodes_[node].inputs[i] = v; }

  const std::vector<Node>& nodes() const { return nodes_; }
  const Node& node(int32_t i) const { return nodes_[i]; }
  const std::vector<Value>& values() const { return values_; }
  const Value& value(ValueId v) const { return values_[v]; }
  const Node& producer(ValueId v) const { return nodes_[values_[v].node]; }
  // The bank that a parameter is in: "weights", or "frozen" where it is not trained. Null: v is no parameter.
  const char* bankOf(ValueId v) const;
  bool isParameter(ValueId v) const { return bankOf(v) != nullptr; }
  bool isTrained(ValueId v) const;
  void check(ValueId v, const char* where) const;  // throws invalid-argument where there is no such value

  // For every value, how many times nodes read it.
  std::vector<int32_t> useCounts() const;

 private:
  std::vector<ValueType> infer(const OpDef& op, const std::vector<ValueId>& inputs, const Attributes& attributes) const;

  std::vector<Node> nodes_;
  std::vector<Value> values_;
  int32_t regions_ = 0, region_ = kNoRegion;
};

}  // namespace ddpm
