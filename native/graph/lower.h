// From nodes to steps. A descriptor's `lower` sees a Lowering: it asks for the tensors of its node and appends ops.
#pragma once
#include <array>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/backend.h"
#include "native/graph/op.h"
#include "native/graph/placement.h"
#include "native/graph/step.h"

namespace ddpm {

// The device that a graph is compiled for. Only shapes and addresses go through it.
struct Target {
  const Backend* backend;
  DeviceHandle* device;
  PlanOptions options;
  DType precision = DType::f32;  // the narrow dtype of a mixed program (kernels/ops.h); f32: there is none
};

// Packs and mirrors the parameters of a bank; runs when that has changed.
struct Prologue {
  const char* bank;
  std::vector<Step> steps;
};

struct Steps {
  std::array<Prologue, 2> prologues = {{{"weights", {}}, {"frozen", {}}}};
  std::vector<Step> steps;

  std::vector<Step>& prologueOf(const std::string& bank) { return prologues[bank == "frozen"].steps; }
};

class Lowering {
 public:
  // `changesWeights`: every run of the program does, so that packing them in a prologue would save nothing.
  Lowering(const Graph& graph, Placement& placement, const Target& target, bool changesWeights, Steps& out)
      : graph_(graph), placement_(placement), target_(target), changesWeights_(changesWeights), out_(out) {}

  // Decides which of the nodes' weights are kept packed, where the backend can do without: those that save most time
  // for their bytes.
  void choosePacked(const std::vector<int32_t>& nodes);

  void lower(int32_t node);

  // For descriptors. A tensor of an absent value is absent.
  const Attributes& attributes() const { return node_->attributes; }
  const Dims& inputDims(size_t i) const { return graph_.value(node_->inputs[i]).dims; }
  Tensor in(size_t i) const;
  Tensor out(size_t i) const;
  Tensor optionalOut(size_t i) const;  // absent where nobody reads it
  // The gradient of input `input`, for a kernel that adds to it: the bank 'grads' where that input is trained, else
  // output `output`, set to zero first. Absent where the input is.
  Tensor accumulator(size_t input, size_t output);
  Tensor bank(const std::string& name, int64_t offset, Dims dims) const;
  // Memory between the steps of a node.
  Tensor temporary(const Dims& dims);
  // What operands of products that have no plan are rounded to (Backend::roundsOperands).
  DType products() const { return target_.backend->roundsOperands ? target_.precision : DType::f32; }
  // What rows of input `weight` are multiplied with, where they are i8; else absent.
  Tensor scales(size_t weight) const;
  // The mirror (placement.h) of the first `count` weights; absent in a program that reads none.
  Tensor mirror(int32_t count) { return placement_.mirror("weights", count); }
  size_t inputCount() const { return node_->inputs.size(); }
  bool isInPlace(size_t input, int32_t start) const;  // the input already lies in channels [start, ...) of output 0

  // `weight`: the number of the input.
  ConvPlan plan(const Conv2d& op, size_t weight);
  ConvPlan plan(const Conv2dDgrad& op, size_t weight);
  ConvAlgo plan(const Conv2dWgrad& op) const;
  // Memory with the packed weights of input `weight`: filled by the prologue for a parameter that stays the same from
  // run to run; else right before this step, and free again after it.
  const void* packed(size_t weight, const ConvShape& shape, ConvPass pass, const ConvPlan& plan);

  template <class Op>
  void run(const Op& op) {
    if (!candidates_) out_.steps.push_back(op);
  }

 private:
  // A layer's weights, and what of it they are packed for; and all that packed weights depend on.
  using Packable = std::pair<ValueId, ConvPass>;
  using Form = std::tuple<Packable, ConvAlgo, int32_t, int32_t, int32_t, size_t>;
  static Form formOf(const Packable& weights, const ConvShape& shape, const ConvPlan& plan) {
    return {weights, plan.algo, shape.stride, shape.padTop, shape.padLeft, plan.packedBytes};
  }
  // Whether packed weights of input `weight` stay the same from run to run.
  bool staysPacked(size_t weight) const;
  Tensor scalesOf(ValueId v) const;
  template <class Plan, class Op>
  ConvPlan plan(size_t weight, ConvPass pass, Plan plan, const Op& op);

  const Graph& graph_;
  Placement& placement_;
  const Target& target_;
  const bool changesWeights_;
  Steps& out_;
  const Node* node_ = nullptr;
  std::map<Form, const void*> packed_;
  // Of a layer's weights, of which a network has two for guidance: the most that is kept packed.
  std::map<Packable, int64_t> kept_;
  // What might be, while that is decided.
  struct Candidate {
    std::set<Form> forms;  // that there would be
    int64_t bytes = 0;
    double saved = 0;
  };
  std::map<Packable, Candidate>* candidates_ = nullptr;
};

// Channels [start, start + count) of a tensor.
Tensor channels(Tensor t, int32_t start, int32_t count);

}  // namespace ddpm
