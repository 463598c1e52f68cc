// The sum of what all micro-batches of a step gave for a bank (gradients), in an order that does not depend on which
// rank computed which: a binary tree over the micro-batches 0, 1, 2, ... in which a node of 2^j of them begins at a
// multiple of 2^j. A rank has `share` micro-batches that follow one another, and has added up those that are a node
// together.
#pragma once
#include "native/runtime/buffer.h"
#include "native/runtime/world.h"

namespace ddpm {

// A node of the tree: the micro-batches [first, end).
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

// On the device's thread: banks[i] has what node i of this rank gave; afterwards banks[0] has the sum of all ranks'
// nodes, with the same bits on each, and the others are changed. Of n ranks, one sends 2 (n - 1) / n of the bank where
// its share is one node (as a ring would), and (nodes + 1) (n - 1) / n else. Beside the banks it takes a few MiB.
void sumBanks(World& world, const std::vector<std::shared_ptr<Buffer>>& banks, int64_t share);

}  // namespace ddpm
