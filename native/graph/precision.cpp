#include "native/graph/precision.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

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

// A view has the width of what it views: it moves no bytes that way.
bool isSlice(const Node& node) { return is(node, "slice"); }
bool isConcat(const Node& node) { return is(node, "concat"); }

class Pass {
 public:
  Pass(Graph& graph, const Region& region, DType narrow)
      : graph_(graph), region_(region), narrow_(narrow), isNarrow_(graph.values().size()) {}

  std::vector<int32_t> run() {
    chooseDTypes();
    for (int32_t i : region_.live) {
      castInputs(i);
      order_.push_back(i);
    }
    return std::move(order_);
  }

 private:
  // A slice or concatenation is read as its readers read it, and can be narrow where what it is made of can. The two
  // depend on each other: concatenations begin narrow, and those that can't be become wide until all of them can.
  void chooseDTypes() {
    std::set<int32_t> wideConcats;
    for (;;) {
      findReaders(wideConcats);
      const size_t before = wideConcats.size();
      for (int32_t i : region_.live) chooseWidths(i, wideConcats);
      if (wideConcats.size() == before) break;
    }
    for (int32_t i : region_.live) {
      for (ValueId v : graph_.node(i).outputs) {
        if (isNarrow_[v]) graph_.setDType(v, narrow_);
      }
    }
  }

  // In reverse, so that views hand on what is asked of them.
  void findReaders(const std::set<int32_t>& wideConcats) {
    readers_.assign(graph_.values().size(), {});
    for (const auto& [name, v] : region_.outputs) readers_[v].wide = true;
    for (auto i = region_.live.rbegin(); i != region_.live.rend(); ++i) {
      const Node& node = graph_.node(*i);
      for (size_t k = 0; k < node.inputs.size(); ++k) {
        if (node.inputs[k] == kAbsent) continue;
        Readers& readers = readers_[node.inputs[k]];
        if (isSlice(node)) {
          readers.add(readers_[node.outputs[0]]);
        } else if (isConcat(node)) {
          readers.add({.wide = wideConcats.count(*i) > 0, .either = true});
        } else {
          const Width width = letter(node.op->takes, k);
          readers.add({.wide = width == kWide, .narrow = width == kNarrow, .either = width == kEither});
        }
      }
    }
  }

  void chooseWidths(int32_t i, std::set<int32_t>& wideConcats) {
    const Node& node = graph_.node(i);
    for (size_t k = 0; k < node.outputs.size(); ++k) {
      const ValueId v = node.outputs[k];
      const Width width = letter(node.op->gives, k);
      isNarrow_[v] = width == kNarrow || (width == kEither && readers_[v].canBeNarrow() && !isSum(node));
    }
    const ValueId y = node.outputs.empty() ? kAbsent : node.outputs[0];
    if (isSlice(node)) {
      isNarrow_[y] = isNarrow_[node.inputs[0]];
    } else if (isConcat(node)) {
      // Parts that are wide are worth a cast each where nobody would read the whole as it is.
      const auto fits = [&](ValueId v) { return bool(isNarrow_[v]); };
      const bool partsFit = std::all_of(node.inputs.begin(), node.inputs.end(), fits);
      isNarrow_[y] = !wideConcats.count(i) && readers_[y].canBeNarrow() && (partsFit || !readers_[y].either);
      if (!isNarrow_[y]) wideConcats.insert(i);
    }
  }

  void castInputs(int32_t i) {
    for (size_t k = 0; k < graph_.node(i).inputs.size(); ++k) {
      const Node& node = graph_.node(i);
      const ValueId v = node.inputs[k];
      if (v == kAbsent || graph_.value(v).dtype == DType::i32 || isSlice(node)) continue;
      const Width width = !isConcat(node) ? letter(node.op->takes, k) : isNarrow_[node.outputs[0]] ? kNarrow : kWide;
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

  // How a value is read, by all together.
  struct Readers {
    bool wide = false, narrow = false, either = false;
    void add(const Readers& more) {
      wide |= more.wide;
      narrow |= more.narrow;
      either |= more.either;
    }
    bool canBeNarrow() const { return !wide && (narrow || either); }
  };

  Graph& graph_;
  const Region& region_;
  const DType narrow_;
  std::vector<Readers> readers_;  // by value, as the next
  std::vector<bool> isNarrow_;
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
