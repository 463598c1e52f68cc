// The sum over all ranks of what their batches gave for a bank (gradients), in an order that does not depend on which
// rank computed which: a binary tree over the batches 0, 1, 2, ... of a step, in which a node of 2^j of them begins at
// a multiple of 2^j. A rank has `share` batches that follow one another.
#pragma once
#include <vector>

#include "native/graph/bank_parts.h"
#include "native/graph/step.h"

namespace ddpm {

// The batches [first, end).
struct TreeNode {
  int64_t first, end;
  // Whether it and the next are the two halves of one.
  bool joins(const TreeNode& next) const {
    const int64_t size = end - first;
    return size == next.end - next.first && end == next.first && first % (2 * size) == 0;
  }
};

// The nodes that [first, end) is made of, each as large as can be.
std::vector<TreeNode> nodesOf(int64_t first, int64_t end);

// Of memory of the device, for what all ranks' nodes send of a piece, where it is added up there.
uint64_t sumScratchBytes(const RankSum& sum);

// That one rank sends to others.
uint64_t sentBytes(const RankSum& sum);
uint64_t sentBytes(const RankGather& op);

// A piece of the bank that goes out when the first `after` steps of the program are done.
struct Outgoing {
  int64_t piece, after;
};

// Where a program has a RankSum among its steps, and when each piece of the bank can go out: they follow one another in
// the order in which they are ready, which is the same on all ranks, as their graphs are.
struct SumPlan {
  size_t at = SIZE_MAX;  // none
  std::vector<Outgoing> order;
  bool exists() const { return at != SIZE_MAX; }
};

// Throws invalid-argument where there are two.
SumPlan planSum(const std::vector<Step>& steps);

}  // namespace ddpm
