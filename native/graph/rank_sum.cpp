#include "native/graph/rank_sum.h"

#include <algorithm>

#include "native/graph/error.h"

namespace ddpm {

std::vector<TreeNode> nodesOf(int64_t first, int64_t end) {
  std::vector<TreeNode> nodes;
  while (first < end) {
    int64_t size = 1;
    while (first % (2 * size) == 0 && first + 2 * size <= end) size *= 2;
    nodes.push_back({first, first + size});
    first += size;
  }
  return nodes;
}

uint64_t sumScratchBytes(const RankSum& sum) {
  size_t most = 0;
  for (int32_t r = 0; r < sum.ranks; ++r) most = std::max(most, nodesOf(r * sum.share, (r + 1) * sum.share).size());
  return uint64_t(most) * uint64_t(sum.ranks) * uint64_t(BankParts(sum.grads.elements(), sum.ranks).longestOwn()) * 4;
}

uint64_t sentBytes(const RankSum& sum) {
  const BankParts parts(sum.grads.elements(), sum.ranks);
  int64_t own = 0;
  for (int64_t piece = 0; piece < parts.pieces(); ++piece) own += parts.own(piece, sum.rank).length();
  const auto nodes = int64_t(nodesOf(sum.rank * sum.share, (sum.rank + 1) * sum.share).size());
  return uint64_t(nodes * (parts.count() - own) + (sum.keepsParts ? 0 : sum.ranks - 1) * own) * 4;
}

uint64_t sentBytes(const RankGather& op) {
  const BankParts parts(op.count, op.ranks);
  const bool isWhole = op.x.elements() == op.count;
  int64_t own = 0;
  for (int64_t piece = 0; piece < parts.pieces(); ++piece)
    own += (isWhole ? parts.own(piece, op.rank) : parts.ownParts(piece, op.rank)).length();
  return uint64_t(op.ranks - 1) * uint64_t(own) * 4;
}

SumPlan planSum(const std::vector<Step>& steps) {
  SumPlan plan;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!std::holds_alternative<RankSum>(steps[i])) continue;
    if (plan.exists()) throw Failure::argumentOf("compile", "sumRanks", "one in a program", "two");
    plan.at = i;
  }
  if (!plan.exists()) return plan;

  const auto& sum = std::get<RankSum>(steps[plan.at]);
  const uint32_t bank = decode(sum.grads.data).storage;
  const BankParts parts(sum.grads.elements(), sum.ranks);
  for (int64_t piece = parts.pieces() - 1; piece >= 0; --piece) plan.order.push_back({piece, 0});
  for (size_t i = 0; i < plan.at; ++i) {
    Step step = steps[i];
    std::visit(
        [&](auto& op) {
          visitFields(op, [&](const char*, auto& field, Access access) {
            if constexpr (std::is_same_v<std::decay_t<decltype(field)>, Tensor>) {
              if (!field.data || access == Access::read || decode(field.data).storage != bank) return;
              const int64_t begin = int64_t(decode(field.data).offset / 4), end = begin + field.elements();
              for (Outgoing& out : plan.order) {
                const Range range = parts.piece(out.piece);
                if (begin < range.end && range.begin < end) out.after = int64_t(i) + 1;
              }
            }
          });
        },
        step);
  }
  std::stable_sort(plan.order.begin(), plan.order.end(),
                   [](const Outgoing& a, const Outgoing& b) { return a.after < b.after; });
  return plan;
}

}  // namespace ddpm
