// Softmax attention, forward: in blocks of keys, the softmax carried on from one block to the next (Dao et al. 2022,
// FlashAttention; Rabe & Staats 2021).
//
// A task takes some panels of queries of one head through all keys. Of a block of keys and a panel it computes the
// scores, scale q kᵀ transposed: [key][query]. What the softmax needs of a query is then a vector of kWidth queries,
// and the weights are the panel that the product with the values wants. All memory is a thread's own, and its size does
// not depend on the number of tokens.
#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/attention_tiles.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

constexpr int kMaxQueries = 256;       // a task: enough that packing keys and values costs little
constexpr int kMaxFloats = 256 * 256;  // of a task's queries: they and the sums stay in L2
constexpr int kTogether = 2;           // keys whose exponentials are computed at once
constexpr float kLn2 = 0.693147181f;

// How the queries are cut into tasks. No result depends on it.
struct Tasks {
  int64_t queries, keys, dim, heads;
  int64_t panels, blocks, blockPanels;  // panels and tasks of a head; the most panels in a task
  int64_t count;
  bool masked;

  Tasks(const Attention& op, int threads)
      : queries(int64_t(op.q.h) * op.q.w),
        keys(int64_t(op.k.h) * op.k.w),
        dim(op.shape.headDim),
        heads(op.shape.heads),
        masked(bool(op.mask)) {
    panels = ceilDiv<int64_t>(queries, kCols);
    // Four tasks a thread or more, to share them evenly.
    const int64_t all = op.q.n * heads, share = all * panels / (4 * threads);
    const int64_t most = minOf<int64_t>(kMaxQueries, kMaxFloats / dim) / kCols;
    blocks = ceilDiv(panels, maxOf<int64_t>(minOf(share, most), 1));
    blockPanels = ceilDiv(panels, blocks);
    count = all * blocks;
  }
};

// A thread's memory.
struct Scratch {
  float *queries, *sums;         // panels: log2(e) scale q; the weighted sum of the values
  float *maximum, *denominator;  // of the panels' queries; the scores' maximum in base 2
  float *keys, *values;          // rows of the block
  float* scores;                 // [kKeys][kCols]
  float* mask;                   // the same; null where there is none
  size_t bytes;

  Scratch(const Tasks& t, int thread, void* base) {
    ScratchCutter cut(base);
    for (int i = 0; i <= thread; ++i) {
      queries = cut.take<float>(t.blockPanels * t.dim * kCols);
      sums = cut.take<float>(t.blockPanels * t.dim * kCols);
      maximum = cut.take<float>(t.blockPanels * kCols);
      denominator = cut.take<float>(t.blockPanels * kCols);
      keys = cut.take<float>(rowFloats(kKeys, t.dim));
      values = cut.take<float>(rowFloats(kKeys, t.dim));
      scores = cut.take<float>(kKeys * kCols);
      mask = t.masked ? cut.take<float>(kKeys * kCols) : nullptr;
    }
    bytes = cut.bytes();
  }
};

// The scores of `Keys` keys become their weights, which are added to the totals.
template <int Keys, int Vectors>
DDPM_INLINE void weigh(float* scores, const vf (&most)[Vectors], vf (&totals)[Vectors]) {
  vf x[Keys * Vectors];
  for (int i = 0; i < Keys * Vectors; ++i)
    x[i] = load(scores + i / Vectors * kCols + i % Vectors * kWidth) - most[i % Vectors];
  exp2All(x);
  for (int i = 0; i < Keys * Vectors; ++i) {
    store(scores + i / Vectors * kCols + i % Vectors * kWidth, x[i]);
    totals[i % Vectors] += x[i];
  }
}

// Adds the mask to the scores of `count` keys; `most` becomes the maximum of itself and them.
template <int Vectors>
void addMask(const float* mask, int64_t count, float* scores, vf (&most)[Vectors]) {
  for (int64_t i = 0; i < count * kCols; i += kCols)
    for (int v = 0; v < Vectors; ++v) {
      float* s = scores + i + v * kWidth;
      const vf score = load(s) + load(mask + i + v * kWidth);
      store(s, score);
      most[v] = max(most[v], score);
    }
}

// Carries one panel on by the block of `count` keys.
template <int Vectors, bool Masked>
void attend(const Scratch& s, int64_t panel, int64_t dim, int64_t count, Ahead& nextKeys, Ahead& nextValues) {
  const float* queries = s.queries + panel * dim * kCols;
  float *sums = s.sums + panel * dim * kCols, *maximum = s.maximum + panel * kCols,
        *denominator = s.denominator + panel * kCols;

  vf most[Vectors], factors[Vectors], totals[Vectors];
  [[maybe_unused]] vf unmasked[Vectors] = {};
  for (int v = 0; v < Vectors; ++v) most[v] = load(maximum + v * kWidth);
  const Pieces tiles(count);
  for (int i = 0; i < tiles.pieces; ++i) {
    nextKeys.step();
    nextValues.step();
    withTileRows(tiles.size(i), [&]<int Rows>() {
      scoreTile<Rows, Vectors>(s.keys + tiles.begin(i) * kChunk, count * kChunk, queries, dim,
                               s.scores + tiles.begin(i) * kCols, Masked ? unmasked : most);
    });
  }
  if constexpr (Masked) addMask(s.mask, count, s.scores, most);

  for (int v = 0; v < Vectors; ++v) {
    factors[v] = load(maximum + v * kWidth) - most[v];
    store(maximum + v * kWidth, most[v]);
    totals[v] = zero();
  }
  exp2All(factors);
  int64_t key = 0;
  for (; key + kTogether <= count; key += kTogether) weigh<kTogether>(s.scores + key * kCols, most, totals);
  for (; key < count; ++key) weigh<1>(s.scores + key * kCols, most, totals);
  for (int v = 0; v < Vectors; ++v) {
    float* d = denominator + v * kWidth;
    store(d, load(d) * factors[v] + totals[v]);
  }

  for (int64_t c = 0; c < dim; c += kChunk) {
    const Pieces channels(minOf<int64_t>(dim - c, kChunk));
    for (int i = 0; i < channels.pieces; ++i)
      withTileRows(channels.size(i), [&]<int Rows>() {
        valueTile<Rows, Vectors>(s.values + c * count + channels.begin(i), s.scores, count, factors,
                                 sums + (c + channels.begin(i)) * kCols);
      });
  }
}

// A task's tensors, from its first query or its first key on.
struct Work {
  const float *q, *k, *v, *mask;
  float *y, *lse;
  int64_t queries;

  Work(const Attention& op, const Tasks& t, int64_t task) {
    const int64_t n = task / t.blocks / t.heads, head = task / t.blocks % t.heads, block = task % t.blocks;
    const int64_t first = t.panels * block / t.blocks * kCols, end = t.panels * (block + 1) / t.blocks * kCols;
    const AttentionShape& shape = op.shape;
    queries = minOf(end, t.queries) - first;
    q = op.q.f32() + (n * t.queries + first) * op.q.ld + head * shape.qHead;
    k = op.k.f32() + n * t.keys * op.k.ld + head * shape.kHead;
    v = op.v.f32() + n * t.keys * op.v.ld + head * shape.vHead;
    mask = t.masked ? maskOf(op.mask, n) + first * op.mask.ld : nullptr;
    y = op.y.f32() + (n * t.queries + first) * op.y.ld + head * t.dim;
    lse = op.lse.f32() + n * op.lse.ld + head * t.queries + first;
  }
};

}  // namespace

size_t scratch(const CpuDevice& device, const Attention& op) {
  if (op.products == DType::bf16) return bf16Scratch(device, op);
  const int threads = device.pool.threads();
  return Scratch(Tasks(op, threads), threads - 1, nullptr).bytes;
}

void run(CpuDevice& device, const Attention& op, void* memory) {
  if (op.products == DType::bf16) return runBf16(device, op, memory);
  const Tasks t(op, device.pool.threads());
  const int64_t qLd = op.q.ld, kLd = op.k.ld, vLd = op.v.ld;
  device.pool.parallelFor(t.count, [&](int64_t task, int thread) {
    const Scratch s(t, thread, memory);
    const Work w(op, t, task);
    const int64_t panels = ceilDiv<int64_t>(w.queries, kCols);
    const auto queriesOf = [&](int64_t panel) { return int(minOf<int64_t>(w.queries - panel * kCols, kCols)); };

    for (int64_t i = 0; i < panels; ++i)
      packPanel(w.q + i * kCols * qLd, qLd, queriesOf(i), int(t.dim), op.shape.scale * kLog2e,
                s.queries + i * t.dim * kCols);
    for (int64_t i = 0; i < panels * t.dim * kCols; ++i) s.sums[i] = 0.0f;
    for (int64_t i = 0; i < panels * kCols; ++i) {
      s.maximum[i] = -__builtin_inff();
      s.denominator[i] = 0.0f;
    }

    for (int64_t key = 0; key < t.keys; key += kKeys) {
      const int64_t count = minOf<int64_t>(kKeys, t.keys - key), next = key + count;
      packRows(w.k + key * kLd, kLd, count, t.dim, s.keys);
      packRows(w.v + key * vLd, vLd, count, t.dim, s.values);
      const int64_t ahead = minOf<int64_t>(kKeys, t.keys - next), steps = panels * Pieces(count).pieces;
      Ahead keys(w.k + next * kLd, kLd, ahead, t.dim, steps), values(w.v + next * vLd, vLd, ahead, t.dim, steps);
      for (int64_t i = 0; i < panels; ++i) {
        if (t.masked) {
          packMask(
              w.mask + i * kCols * op.mask.ld + key, op.mask.ld, queriesOf(i), count, [](int) { return false; },
              s.mask);
          attend<2, true>(s, i, t.dim, count, keys, values);
        } else if (queriesOf(i) > kWidth) {
          attend<2, false>(s, i, t.dim, count, keys, values);
        } else {
          attend<1, false>(s, i, t.dim, count, keys, values);
        }
      }
    }

    for (int64_t i = 0; i < w.queries; ++i) {
      w.lse[i] = s.maximum[i] == kMaskedScore ? kMaskedScore : s.maximum[i] * kLn2 + __builtin_logf(s.denominator[i]);
      s.denominator[i] = 1.0f / s.denominator[i];
    }
    for (int64_t i = 0; i < panels; ++i)
      unpackPanel(s.sums + i * t.dim * kCols, s.denominator + i * kCols, queriesOf(i), int(t.dim),
                  w.y + i * kCols * op.y.ld, op.y.ld);
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
