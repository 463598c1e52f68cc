// Reverse-mode differentiation: appends the nodes that compute gradients.
#pragma once
#include <vector>

#include "native/graph/op.h"

namespace ddpm {

// Appends the gradient of the scalar `loss`. Parameters' gradients are added to the bank 'grads', but for those that
// are frozen, which have none; those of `wrt` are returned, kAbsent where the loss does not depend on one. Throws
// invalid-argument where an op on the way has no gradient.
std::vector<ValueId> backward(Graph& graph, ValueId loss, const std::vector<ValueId>& wrt);

// What a descriptor's `gradient` sees: a node whose outputs' gradients are known, and whose inputs' are wanted.
class Gradient {
 public:
  Gradient(Graph& graph, ValueId loss, const std::vector<ValueId>& wrt);
  std::vector<ValueId> run();

  const Attributes& attributes() const { return node_.attributes; }
  ValueId input(size_t i) const { return i < node_.inputs.size() ? node_.inputs[i] : kAbsent; }
  ValueId output(size_t i) const { return node_.outputs[i]; }
  const Dims& dims(ValueId v) const { return graph_.value(v).dims; }
  bool wants(size_t i) const;       // whether input i's gradient is needed
  ValueId of(size_t output) const;  // the gradient of an output; kAbsent: nothing depends on it
  ValueId dy() const { return of(0); }

  // Appends a node (of an internal op, or a public one) and returns its values. It reads values of regions as they are
  // computed again.
  std::vector<ValueId> emit(const char* op, std::vector<ValueId> inputs, Attributes attributes = {});
  // Contributes to the gradient of input i: a whole one, or one of its channels from `start` on.
  void give(size_t i, ValueId gradient);
  void giveChannels(size_t i, ValueId gradient, int32_t start);
  // The gradient of input i comes from an op that accumulates it (OpDef::accumulates).
  void giveAccumulated(size_t i, ValueId gradient);

 private:
  struct Part {
    ValueId gradient;
    int32_t start, count;
  };
  struct Pending {
    ValueId whole = kAbsent;
    std::vector<Part> parts;
  };

  void markWanted(const std::vector<ValueId>& wrt);
  void markKept();
  void recompute(int32_t region);
  std::vector<ValueId> append(const OpDef& op, std::vector<ValueId> inputs, Attributes attributes);
  void contribute(ValueId v, ValueId gradient);
  ValueId finish(ValueId v);  // joins what was contributed

  Graph& graph_;
  ValueId loss_;
  std::vector<ValueId> wrt_;
  std::vector<bool> wanted_;
  std::vector<bool> kept_;      // of values of regions: needed outside, and so there is nothing to compute again
  std::vector<ValueId> again_;  // for each value, what it is computed again as; kAbsent: it is not
  int32_t region_ = kNoRegion;  // whose values were computed again last
  std::vector<Pending> pending_;
  Node node_;  // a copy: the graph grows meanwhile
};

}  // namespace ddpm
