// What the compiler knows of an op: one descriptor each, in ops/ grouped as in kernels/. A descriptor says how the
// shapes of the values follow from the inputs, what the gradient is (in terms of other nodes), and which kernels
// compute it.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "native/graph/graph.h"

namespace ddpm {

class Gradient;  // autodiff.h
class Lowering;  // lower.h

// The inputs and attributes of a node that is being added: what shape inference sees.
class Call {
 public:
  Call(const Graph& graph, const OpDef& op, const std::vector<ValueId>& inputs, const Attributes& attributes)
      : attributes(attributes), graph_(graph), op_(op), inputs_(inputs) {}

  const Attributes& attributes;

  size_t inputs() const { return inputs_.size(); }
  bool has(size_t i) const { return i < inputs_.size() && inputs_[i] != kAbsent; }
  const Dims& dims(size_t i) const { return graph_.value(inputs_[i]).dims; }
  DType dtype(size_t i) const { return graph_.value(inputs_[i]).dtype; }

  // Each throws invalid-argument that names the op, the input or attribute, what was expected and what came.
  void requireDims(size_t i, const Dims& expected) const;  // kAny matches anything
  void requireDType(size_t i, DType expected) const;
  void require(bool ok, const std::string& argument, const std::string& expected, const std::string& received) const;
  int32_t integer(const char* name, int64_t low, int64_t high = INT32_MAX) const;
  double number(const char* name, double low, double high) const;
  float real(const char* name) const;                                               // finite, as a float too
  int32_t choice(const char* name, const std::vector<std::string>& choices) const;  // the index of the one taken

 private:
  const Graph& graph_;
  const OpDef& op_;
  const std::vector<ValueId>& inputs_;
};

constexpr int32_t kAny = -1;

struct OpDef {
  const char* name;
  std::vector<const char*> inputs =
      {};  // a '?' at the end: optional; a last one of "...": any number of the one before
  std::vector<const char*> attributes = {};
  std::vector<ValueType> (*infer)(const Call&) = nullptr;
  void (*gradient)(Gradient&) = nullptr;  // null: the op has none
  void (*lower)(Lowering&) = nullptr;     // null: nothing to run
  int32_t weight = -1;                    // the input that may be weights of another format (kernels/ops.h, Weights)
  // Mixed precision (precision.h): how wide each input may be and each output can be, a letter each: 'n' narrow, 'w'
  // wide (f32), 'e' either. What has no letter is wide; slices and concatenations follow what they are made of.
  const char* takes = "";
  const char* gives = "";
  // Output `first` may take the memory of input `second` (kernels/ops.h, "in place"), in order of preference.
  std::vector<std::pair<int32_t, int32_t>> inPlace = {};
  // Output `first` is the gradient of input `second`, added (+=) to the bank 'grads' where that input is a parameter.
  std::vector<std::pair<int32_t, int32_t>> accumulates = {};
  int32_t results = 1;    // how many of the outputs are public; the others serve the gradient
  bool effect = false;    // writes a bank: never dead
  bool internal = false;  // appended by the compiler only
};

const OpDef* findOp(const std::string& name);  // null where there is none
const OpDef& opNamed(const std::string& name);

// The descriptors of each file in ops/.
const std::vector<OpDef>& sourceOps();
const std::vector<OpDef>& convOps();
const std::vector<OpDef>& normOps();
const std::vector<OpDef>& attentionOps();
const std::vector<OpDef>& activationOps();
const std::vector<OpDef>& elementwiseOps();
const std::vector<OpDef>& resampleOps();
const std::vector<OpDef>& layoutOps();
const std::vector<OpDef>& tokenOps();
const std::vector<OpDef>& embeddingOps();
const std::vector<OpDef>& lossOps();
const std::vector<OpDef>& diffusionOps();
const std::vector<OpDef>& varianceOps();
const std::vector<OpDef>& latentOps();
const std::vector<OpDef>& optimizerOps();
const std::vector<OpDef>& rankOps();

}  // namespace ddpm
