// What processes that train together compute together (native/graph/rank_sum.h).
#include "native/graph/lower.h"
#include "native/graph/rank_sum.h"

namespace ddpm {
namespace {

// Those of the batches before the last.
int64_t earlierNodes(const Attributes& a) {
  const int64_t first = a.integer("rank") * a.integer("share");
  return int64_t(nodesOf(first, first + a.integer("share") - 1).size());
}

std::vector<ValueType> inferSumRanks(const Call& call) {
  call.integer("count", 1);
  call.integer("rank", 0, call.integer("ranks", 2) - 1);
  call.integer("share", 1);
  call.attributes.boolean("keepsParts");
  return {};
}
void lowerSumRanks(Lowering& l) {
  const Attributes& a = l.attributes();
  const Dims dims = {1, 1, 1, int32_t(a.integer("count"))};
  RankSum sum = {.grads = l.bank("grads", 0, dims),
                 .rank = int32_t(a.integer("rank")),
                 .ranks = int32_t(a.integer("ranks")),
                 .share = a.integer("share"),
                 .keepsParts = a.boolean("keepsParts")};
  for (int64_t i = 0; i < earlierNodes(a); ++i) sum.earlier.push_back(l.bank(earlierBank(i), 0, dims));
  l.run(sum);
}

}  // namespace

const std::vector<OpDef>& rankOps() {
  static const std::vector<OpDef> ops = {
      {.name = "sumRanks",
       .attributes = {"count", "rank", "ranks", "share", "keepsParts"},
       .infer = inferSumRanks,
       .lower = lowerSumRanks,
       .results = 0,
       .effect = true},
  };
  return ops;
}

}  // namespace ddpm
