// Ops on the banks: flat buffers of all parameters (kernels/ops.h, Optimizer).
#include "native/graph/bank_parts.h"
#include "native/graph/lower.h"

namespace ddpm {
namespace {

// What a rank updates of the banks, of which it alone has the optimizer's state (the attributes rank and ranks): its
// own parts (bank_parts.h). With one rank, all.
struct Shard {
  explicit Shard(const Attributes& a)
      : count(a.integer("count")), rank(int32_t(a.integer("rank"))), ranks(int32_t(a.integer("ranks"))) {}
  const int64_t count;
  const int32_t rank, ranks;
};

void checkShard(const Call& call) {
  call.integer("count", 1);
  call.integer("rank", 0, call.integer("ranks", 1) - 1);
}

Tensor flat(Lowering& l, const char* bank, int64_t offset, int64_t count) {
  return l.bank(bank, offset, {1, 1, 1, int32_t(count)});
}

Tensor from(Tensor t, int64_t offset, const Dims& dims) {
  const Address a = decode(t.data);
  return {encode({a.storage, a.offset + uint64_t(offset) * 4}), dims[0], dims[1], dims[2], dims[3], dims[3], t.dtype};
}

// run(at, own, length): a range of the banks that lie whole, and where it begins in those that have a rank's part
// alone.
template <class Run>
void forOwn(const Shard& shard, const Run& run) {
  if (shard.ranks == 1) return run(int64_t(0), int64_t(0), shard.count);
  const BankParts parts(shard.count, shard.ranks);
  int64_t own = 0;
  for (int64_t i = 0; i < parts.pieces(); ++i) {
    const Range range = parts.own(i, shard.rank);
    if (range.length() > 0) run(range.begin, own, range.length());
    own += range.length();
  }
}

void checkHyper(const Call& call) {
  checkShard(call);
  call.requireDType(0, DType::f32);
  call.requireDims(0, {1, 1, 1, 16});
}

std::vector<ValueType> inferSumSquares(const Call& call) {
  checkShard(call);
  return {{{1, 1, 1, 1}}};
}
// By parts, so that ranks can share them; those are added up in their order.
void lowerSumSquares(Lowering& l) {
  const Shard shard(l.attributes());
  const BankParts parts(shard.count, shard.ranks);
  const int32_t rows = int32_t(parts.parts()), length = int32_t(parts.partLength());
  const Tensor squares = l.temporary({1, 1, rows, 1}), ones = l.temporary({rows, 1, 1, 1});
  forOwn(shard, [&](int64_t at, int64_t, int64_t count) {
    const int64_t first = at / length, whole = count / length, rest = count % length;
    if (whole > 0) {
      const Dims dims = {1, 1, int32_t(whole), length};
      l.run(SumSquares{l.bank("grads", at, dims), from(squares, first, {1, 1, int32_t(whole), 1})});
    }
    if (rest > 0)
      l.run(SumSquares{flat(l, "grads", at + whole * length, rest), from(squares, first + whole, {1, 1, 1, 1})});
  });
  if (shard.ranks > 1) l.run(RankGather{squares, shard.count, shard.rank, shard.ranks});
  l.run(Fill{ones, 1.0f});
  l.run(WeightedSum{from(squares, 0, {rows, 1, 1, 1}), ones, l.out(0)});
}

std::vector<ValueType> inferUpdate(const Call& call) {
  checkHyper(call);
  call.requireDType(1, DType::f32);
  call.requireDims(1, {1, 1, 1, 1});
  return {};
}

// The others' parts of the new weights.
void gatherWeights(Lowering& l, const Shard& shard) {
  if (shard.ranks > 1) l.run(RankGather{flat(l, "weights", 0, shard.count), shard.count, shard.rank, shard.ranks});
}

// A narrow copy is kept up by a rank that updates all weights.
Tensor mirrorOf(Lowering& l, const Shard& shard) { return shard.ranks > 1 ? Tensor{} : l.mirror(int32_t(shard.count)); }

void lowerAdamW(Lowering& l) {
  const Shard shard(l.attributes());
  forOwn(shard, [&](int64_t at, int64_t own, int64_t count) {
    l.run(AdamW{.weight = flat(l, "weights", at, count),
                .grad = flat(l, "grads", at, count),
                .m = flat(l, "m", own, count),
                .v = flat(l, "v", own, count),
                .hyper = l.in(0),
                .sumSquares = l.in(1),
                .ema = l.attributes().flag("ema") ? flat(l, "ema", own, count) : Tensor{},
                .mirror = mirrorOf(l, shard)});
  });
  gatherWeights(l, shard);
}

void lowerLion(Lowering& l) {
  const Shard shard(l.attributes());
  forOwn(shard, [&](int64_t at, int64_t own, int64_t count) {
    l.run(Lion{.weight = flat(l, "weights", at, count),
               .grad = flat(l, "grads", at, count),
               .m = flat(l, "m", own, count),
               .hyper = l.in(0),
               .sumSquares = l.in(1),
               .ema = l.attributes().flag("ema") ? flat(l, "ema", own, count) : Tensor{},
               .mirror = mirrorOf(l, shard)});
  });
  gatherWeights(l, shard);
}

std::vector<ValueType> inferEma(const Call& call) {
  checkHyper(call);
  return {};
}
void lowerEma(Lowering& l) {
  forOwn(Shard(l.attributes()), [&](int64_t at, int64_t own, int64_t count) {
    l.run(Ema{flat(l, "ema", own, count), flat(l, "weights", at, count), l.in(0)});
  });
}

std::vector<ValueType> inferZeroGrads(const Call& call) {
  call.integer("count", 1);
  return {};
}
void lowerZeroGrads(Lowering& l) { l.run(Fill{flat(l, "grads", 0, l.attributes().integer("count")), 0.0f}); }

// The gradient of a parameter that no kernel accumulates by itself.
std::vector<ValueType> inferAccumulate(const Call& call) { return {{call.dims(1)}}; }
void lowerAccumulate(Lowering& l) { l.run(Copy{l.in(0), l.accumulator(1, 0), 1}); }

}  // namespace

const std::vector<OpDef>& optimizerOps() {
  static const std::vector<OpDef> ops = {
      {.name = "gradSumSquares",
       .attributes = {"count", "rank", "ranks"},
       .infer = inferSumSquares,
       .lower = lowerSumSquares},
      {.name = "adamw",
       .inputs = {"hyper", "sumSquares"},
       .attributes = {"count", "ema", "rank", "ranks"},
       .infer = inferUpdate,
       .lower = lowerAdamW,
       .results = 0,
       .effect = true},
      {.name = "lion",
       .inputs = {"hyper", "sumSquares"},
       .attributes = {"count", "ema", "rank", "ranks"},
       .infer = inferUpdate,
       .lower = lowerLion,
       .results = 0,
       .effect = true},
      {.name = "ema",
       .inputs = {"hyper"},
       .attributes = {"count", "rank", "ranks"},
       .infer = inferEma,
       .lower = lowerEma,
       .results = 0,
       .effect = true},
      {.name = "zeroGrads",
       .attributes = {"count"},
       .infer = inferZeroGrads,
       .lower = lowerZeroGrads,
       .results = 0,
       .effect = true},
      {.name = "accumulateGrad",
       .inputs = {"gradient", "parameter"},
       .infer = inferAccumulate,
       .lower = lowerAccumulate,
       .takes = "ee",
       .accumulates = {{0, 1}},
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
