#include "native/graph/precision.h"

#include <cstring>
#include <map>

#include "native/graph/op.h"

namespace ddpm {
namespace {

// A letter of OpDef::takes or gives.
enum Width : char { kWide = 'w', kEither = 'e', kNarrow = 'n' };

Width letter(const char* letters, size_t i) { return i < std::strlen(letters) ? Width(letters[i]) : kWide; }

bool is(const Node& node, const char* op) { return std::strcmp(node.op->name, op) == 0; }

// A convolution that adds to what another op gave.
bool isSum(const Node& node) {
  const size_t residual = is(node, "conv2dSum") ? 4 : is(node, "conv2dDgrad") ? 2 : SIZE_MAX;
  return residual < node.inputs.size() && node.inputs[residual] != kAbsent;
}

class Pass {
 public:
  Pass(Graph& graph, const Region& region, DType narrow) : graph_(graph), region_(region), narrow_(narrow) {}

  std::vector<int32_t> run() {
    chooseDTypes();
    for (int32_t i : region_.live) {
      castInputs(i);
      order_.push_back(i);
    }
    return std::move(order_);
  }

 private:
  void chooseDTypes() {
    std::vector<bool> isRead(graph_.values().size()), isReadWide(graph_.values().size());
    for (int32_t i : region_.live) {
      const Node& node = graph_.node(i);
      for (size_t k = 0; k < node.inputs.size(); ++k) {
        const ValueId v = node.inputs[k];
        if (v == kAbsent) continue;
        isRead[v] = true;
        if (letter(node.op->takes, k) == kWide) isReadWide[v] = true;
      }
    }
    for (const auto& [name, v] : region_.outputs) isReadWide[v] = true;
    for (int32_t i : region_.live) {
      const Node& node = graph_.node(i);
      for (size_t k = 0; k < node.outputs.size(); ++k) {
        const ValueId v = node.outputs[k];
        const Width width = letter(node.op->gives, k);
        const bool chosen = width == kEither && isRead[v] && !isReadWide[v] && !isSum(node);
        if (width == kNarrow || chosen) graph_.setDType(v, narrow_);
      }
    }
  }

  void castInputs(int32_t i) {
    for (size_t k = 0; k < graph_.node(i).inputs.size(); ++k) {
      const Node& node = graph_.node(i);
      const ValueId v = node.inputs[k];
      if (v == kAbsent || graph_.value(v).dtype == DType::i32) continue;
      const Width width = letter(node.op->takes, k);
      const bool isNarrow = graph_.value(v).dtype == narrow_;
      if ((width == kNarrow && !isNarrow) || (width == kWide && isNarrow)) graph_.setInput(i, k, castOf(v));
    }
  }

  // v in the other of the two dtypes.
  ValueId castOf(ValueId v) {
    const auto found = casts_.find(v);
    if (found != casts_.end()) return found->second;
    const bool widens = graph_.value(v).dtype == narrow_;
    const ValueId result = graph_.append(opNamed(graph_.isParameter(v) ? "mirror" : "cast"), {v}, {})[0];
    if (!widens) graph_.setDType(result, narrow_);
    order_.push_back(graph_.value(result).node);
    return casts_[v] = result;
  }

  Graph& graph_;
  const Region& region_;
  const DType narrow_;
  std::vector<int32_t> order_;
  std::map<ValueId, ValueId> casts_;
};

}  // namespace

const char* precisionName(DType narrow) {
  return narrow == DType::f16 ? "fp16" : narrow == DType::bf16 ? "bf16" : "fp32";
}

std::vector<int32_t> mixPrecision(Graph& graph, const Region& region, DType narrow) {
  return Pass(graph, region, narrow).run();
}

}  // namespace ddpm
