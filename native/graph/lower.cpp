#include "native/graph/lower.h"

#include <algorithm>

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

Tensor Lowering::temporary(const Dims& dims) {
  const uint32_t storage = placement_.addStorage({Storage::arena, uint64_t(elements(dims)) * 4, ""});
  return {encode({storage, 0}), dims[0], dims[1], dims[2], dims[3], dims[3], DType::f32};
}

Tensor Lowering::scales(size_t weight) const { return scalesOf(node_->inputs[weight]); }

Tensor Lowering::scalesOf(ValueId v) const {
  if (graph_.value(v).dtype != DType::i8) return {};
  const int64_t offset = graph_.producer(v).attributes.integer("scales");
  return placement_.bank(graph_.bankOf(v), offset, {1, 1, 1, graph_.value(v).dims[0]});
}

bool Lowering::isInPlace(size_t input, int32_t start) const {
  return placement_.isPartOf(node_->inputs[input], node_->outputs[0], start);
}

namespace {

template <class Result, class Plan, class Op>
Result planned(const Target& target, const PlanOptions& options, Plan plan, const Op& op) {
  Result result = {};
  Error error;
  if (!plan(target.device, op, options, &result, &error)) throw toFailure(error);
  return result;
}

}  // namespace

bool Lowering::staysPacked(size_t weight) const {
  const ValueId v = node_->inputs[weight];
  return graph_.isParameter(v) && !(changesWeights_ && graph_.isTrained(v));
}

template <class Plan, class Op>
ConvPlan Lowering::plan(size_t weight, ConvPass pass, Plan plan, const Op& op) {
  const Packable key = {node_->inputs[weight], pass};
  PlanOptions options = target_.options;
  options.products = products();
  options.packedBytes = candidates_ ? INT64_MAX : kept_[key];
  if (!staysPacked(weight)) options.packedBytes = 0;
  const ConvPlan planned = ddpm::planned<ConvPlan>(target_, options, plan, op);
  if (candidates_) {
    Candidate& candidate = (*candidates_)[key];
    if (candidate.forms.insert(formOf(key, op.shape, planned)).second) candidate.bytes += int64_t(planned.packedBytes);
    candidate.saved += planned.saved;
  }
  return planned;
}

ConvPlan Lowering::plan(const Conv2d& op, size_t weight) {
  return plan(weight, ConvPass::forward, target_.backend->planConv, op);
}
ConvPlan Lowering::plan(const Conv2dDgrad& op, size_t weight) {
  return plan(weight, ConvPass::dgrad, target_.backend->planDgrad, op);
}
ConvAlgo Lowering::plan(const Conv2dWgrad& op) const {
  return planned<ConvAlgo>(target_, target_.options, target_.backend->planWgrad, op);
}

void Lowering::choosePacked(const std::vector<int32_t>& nodes) {
  // Packed weights save a tenth of a small network's time; of a large one they would be most of the memory.
  constexpr int64_t kBytes = 192 << 20;
  int64_t budget = target_.options.packedBytes >= 0 ? target_.options.packedBytes : kBytes;

  std::map<Packable, Candidate> candidates;
  candidates_ = &candidates;
  const std::set<const OpDef*> ops = {findOp("conv2d"), findOp("conv2dSum"), findOp("linear"), findOp("conv2dDgrad")};
  for (int32_t node : nodes) {
    if (ops.count(graph_.node(node).op)) lower(node);
  }
  candidates_ = nullptr;

  using Entry = std::pair<const Packable, Candidate>;
  std::vector<const Entry*> sorted;
  for (const Entry& entry : candidates) {
    if (entry.second.bytes > 0 && entry.second.saved > 0) sorted.push_back(&entry);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
    return a->second.saved * double(b->second.bytes) > b->second.saved * double(a->second.bytes);
  });
  for (const Entry* entry : sorted) {
    if (entry->second.bytes > budget) continue;
    budget -= entry->second.bytes;
    kept_[entry->first] = entry->second.bytes;
  }
}

const void* Lowering::packed(size_t weight, const ConvShape& shape, ConvPass pass, const ConvPlan& plan) {
  if (plan.packedBytes == 0 || candidates_) return nullptr;
  const ValueId v = node_->inputs[weight];
  const bool isKept = staysPacked(weight);
  const Form form = formOf({v, pass}, shape, plan);
  if (isKept) {
    const auto found = packed_.find(form);
    if (found != packed_.end()) return found->second;
  }
  const Storage::Kind kind = isKept ? Storage::packed : Storage::arena;
  void* memory = encode({placement_.addStorage({kind, plan.packedBytes, ""}), 0});
  const ConvPackWeights op = {placement_.tensor(v), memory, shape, pass, plan.algo, scalesOf(v)};
  if (isKept) {
    out_.prologueOf(graph_.bankOf(v)).push_back(op);
    packed_[form] = memory;
  } else {
    run(op);
  }
  return memory;
}

}  // namespace ddpm
