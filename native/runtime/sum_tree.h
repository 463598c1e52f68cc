// What nodes of the tree (native/graph/rank_sum.h) gave: which part goes where, and how it is added up, whoever adds.
#pragma once
#include <vector>

#include "kernels/backend.h"
#include "native/graph/rank_sum.h"

namespace ddpm {

// What rank r has of a piece, as a part of it.
inline std::vector<Part> partsOf(const BankParts& parts, int64_t piece, int32_t ranks) {
  const int64_t begin = parts.piece(piece).begin;
  std::vector<Part> all;
  for (int32_t r = 0; r < ranks; ++r) {
    const Range of = parts.own(piece, r);
    all.push_back({size_t(of.begin - begin) * 4, size_t(of.length()) * 4});
  }
  return all;
}

struct Given {
  TreeNode node;
  float* numbers;
};

// Adds up the nodes that are halves of one, into the first of both, by add(to, from); with `all`, what is left then
// too, from the end, as where the batches are no power of two.
template <class Add>
std::vector<Given> joined(const std::vector<Given>& given, bool all, const Add& add) {
  std::vector<Given> open;
  const auto join = [&] {
    const Given right = open.back();
    open.pop_back();
    add(open.back().numbers, right.numbers);
    open.back().node.end = right.node.end;
  };
  for (const Given& next : given) {
    open.push_back(next);
    while (open.size() > 1 && open[open.size() - 2].node.joins(open.back().node)) join();
  }
  while (all && open.size() > 1) join();
  return open;
}

}  // namespace ddpm
