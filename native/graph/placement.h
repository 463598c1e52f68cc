// Where every value lives: in a buffer that is bound from outside, in memory of its own, or in another value's memory
// (a channel slice of it, a part of a concatenation, or the place of an input that is not needed any more). Offsets in
// the arena come later (plan.h), when the steps and with them the lifetimes are known.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "native/graph/graph.h"
#include "native/graph/step.h"

namespace ddpm {

struct Storage {
  enum Kind { arena, packed, external };
  Kind kind;
  uint64_t bytes;
  std::string name;     // external: the binding's name
  uint64_t offset = 0;  // arena, packed: where it begins
};

// The graph's part that a program runs: `live` nodes in order, and what comes out.
struct Region {
  const Graph& graph;
  std::vector<int32_t> live;
  std::map<std::string, ValueId> outputs;
};

class Placement {
 public:
  explicit Placement(const Region& region);

  // Absent (data null) where the value has no memory.
  Tensor tensor(ValueId v) const;
  Tensor bank(const std::string& name, int64_t offset, Dims dims);
  // The mirror of a bank of parameters: a narrow copy of it up to the last one that is read there, or of `count`
  // elements where that is more, {1,1,1,P}. Absent where none is.
  Tensor mirror(const std::string& bank, int32_t count = 0);
  bool isUsed(ValueId v) const { return used_[v]; }
  // True when `part` lies where channels [start, ...) of `whole` are.
  bool isPartOf(ValueId part, ValueId whole, int32_t start) const;
  uint32_t addStorage(Storage storage);
  std::vector<Storage>& storages() { return storages_; }

 private:
  struct Alias {
    ValueId of = kAbsent;  // lives in this value's memory,
    int32_t channel = 0;   // from this channel on
  };
  struct Root {
    ValueId value;
    int32_t channel;
  };

  void placeOutputs();
  void placeInMirror(ValueId v);
  void placeConcats();
  void placeSlices();
  void placeInPlace();
  void placeRest();
  bool canOverwrite(int32_t place, ValueId input) const;
  bool sameDType(ValueId a, ValueId b) const { return graph_.value(a).dtype == graph_.value(b).dtype; }
  uint64_t bytes(ValueId v) const;
  Root root(ValueId v) const;
  uint32_t external(const std::string& name, uint64_t bytes);

  const Region& region_;
  const Graph& graph_;
  std::vector<bool> used_;        // read by a live node, or an output
  std::vector<int32_t> lastUse_;  // the place among `live` of the last node that reads it; INT32_MAX for outputs
  std::vector<Alias> alias_;
  std::vector<int64_t> storageOf_;  // of roots; -1: none
  std::vector<uint64_t> offsetOf_;
  std::vector<std::vector<ValueId>> members_;  // of roots: the values that live in them
  std::vector<Storage> storages_;
  std::map<std::string, uint32_t> externals_;
  std::map<std::string, uint32_t> mirrors_;  // the storages, by bank
  DType mirrorDType_ = DType::f32;
};

}  // namespace ddpm
