#include "native/graph/lower.h"

#include "native/graph/backend_error.h"

namespace ddpm {

Tensor channels(Tensor t, int32_t start, int32_t count) {
  if (t.data) {
    const Address a = decode(t.data);
    t.data = encode({a.storage, a.offset + uint64_t(start) * sizeOf(t.dtype)});
  }
  t.c = count;
  return t;
}

void Lowering::lower(int32_t node) {
  node_ = &graph_.node(node);
  if (node_->op->lower) node_->op->lower(*this);
}

Tensor Lowering::in(size_t i) const {
  const bool absent = i >= node_->inputs.size() || node_->inputs[i] == kAbsent;
  return absent ? Tensor{} : placement_.tensor(node_->inputs[i]);
}

Tensor Lowering::out(size_t i) const { return placement_.tensor(node_->outputs[i]); }

Tensor Lowering::optionalOut(size_t i) const { return placement_.isUsed(node_->outputs[i]) ? out(i) : Tensor{}; }

Tensor Lowering::accumulator(size_t input, size_t output) {
  const ValueId v = input < node_->inputs.size() ? node_->inputs[input] : kAbsent;
  if (v == kAbsent) return {};
  if (graph_.isTrained(v)) {
    return placement_.bank("grads", graph_.producer(v).attributes.integer("offset"), graph_.value(v).dims);
  }
  const Tensor t = out(output);
  run(Fill{t, 0.0f});
  return t;
}

Tensor Lowering::bank(const std::string& name, int64_t offset, Dims dims) const {
  return placement_.bank(name, offset, dims);
}

bool Lowering::isInPlace(size_t input, int32_t start) const {
  return placement_.isPartOf(node_->inputs[input], node_->outputs[0], start);
}

namespace {

template <class Result, class Plan, class Op>
Result planned(const Target& target, Plan plan, const Op& op) {
  Result result = {};
  Error error;
  if (!plan(target.device, op, target.options, &result, &error)) throw toFailure(error);
  return result;
}

}  // namespace

ConvPlan Lowering::plan(const Conv2d& op) const { return planned<ConvPlan>(target_, target_.backend->planConv, op); }
ConvPlan Lowering::plan(const Conv2dDgrad& op) const {
  return planned<ConvPlan>(target_, target_.backend->planDgrad, op);
}
ConvAlgo Lowering::plan(const Conv2dWgrad& op) const {
  return planned<ConvAlgo>(target_, target_.backend->planWgrad, op);
}

const void* Lowering::packed(size_t weight, const ConvShape& shape, ConvPass pass, const ConvPlan& plan) {
  if (plan.packedBytes == 0) return nullptr;
  const ValueId v = node_->inputs[weight];
  const bool isKept = graph_.isParameter(v) && !(changesWeights_ && graph_.isTrained(v));
  std::string key;
  if (isKept) {
    for (int64_t part : {int64_t(v), int64_t(pass), int64_t(plan.algo), int64_t(shape.stride), int64_t(shape.padTop),
                         int64_t(shape.padLeft), int64_t(plan.packedBytes)}) {
      key += std::to_string(part) + ",";
    }
    const auto found = packed_.find(key);
    if (found != packed_.end()) return found->second;
  }
  const Storage::Kind kind = isKept ? Storage::packed : Storage::arena;
  void* memory = encode({placement_.addStorage({kind, plan.packedBytes, ""}), 0});
  const ConvPackWeights op = {placement_.tensor(v), memory, shape, pass, plan.algo};
  if (isKept) {
    out_.prologueOf(graph_.bankOf(v)).push_back(op);
    packed_[key] = memory;
  } else {
    run(op);
  }
  return memory;
}

}  // namespace ddpm
