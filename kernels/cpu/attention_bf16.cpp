// Softmax attention, forward, of operands that are rounded to bf16: in blocks of keys, as in attention.cpp, but with
// queries as rows, and keys and values as panels, which all tasks share (bf16/kernel.h). The softmax is float32's; its
// numerators are rounded when they are multiplied with the values, not in the sum that they are divided by.
#include "kernels/cpu/attention_bf16.h"

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/bf16/kernel.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

using bf16::kColumns;

constexpr int kMaxQueries = 256;        // a task: their sums stay in L2 beside a block of keys and values
constexpr int kTogether = 4;            // vectors of scores whose exponentials are computed at once
constexpr int kSlots = bf16::kMaxRows;  // of a tile's queries in arrays of one number for each
constexpr float kLn2 = 0.693147181f;

template <class T>
constexpr T roundUp(T a, T b) {
  return ceilDiv(a, b) * b;
}

struct Cut {
  const bf16::Kernel& kernel;
  int64_t queries, keys, dim, heads;
  int64_t all;                        // heads of all samples
  int64_t tiles, blockTiles, blocks;  // tiles of a head's queries, the most in a task, tasks of a head
  int64_t keyBlocks;                  // of kKeys keys
  int64_t depth, valuePanels;         // pairs of the channels; panels of them as columns
  int64_t keyWords, blockWords;       // packed keys of a block, and with its values

  Cut(const CpuDevice& device, const Attention& op)
      : kernel(*device.bf16),
        queries(int64_t(op.q.h) * op.q.w),
        keys(int64_t(op.k.h) * op.k.w),
        dim(op.shape.headDim),
        heads(op.shape.heads),
        all(op.q.n * heads) {
    tiles = ceilDiv<int64_t>(queries, kernel.rows);
    const int64_t share = all * tiles / (4 * device.pool.threads());  // four tasks a thread or more
    blocks = ceilDiv(tiles, maxOf<int64_t>(minOf<int64_t>(share, kMaxQueries / kernel.rows), 1));
    blockTiles = ceilDiv(tiles, blocks);
    keyBlocks = ceilDiv<int64_t>(keys, kKeys);
    depth = kernel.pairsOf(dim);
    valuePanels = ceilDiv<int64_t>(dim, kColumns);
    keyWords = kKeys * depth;
    blockWords = keyWords + valuePanels * kKeys / 2 * kColumns;
  }
  int64_t firstQuery(int64_t tile) const { return queries * tile / tiles; }
  int width(int64_t valuePanel) const {
    return dim - valuePanel * kColumns <= bf16::kNarrow ? bf16::kNarrow : kColumns;
  }
};

struct Scratch {
  uint32_t* packed;  // [head][block]: keys [kColumns of them][pair][kColumns], values [panel][pair of keys][width]
  // A thread's, [tile] of its task:
  uint32_t* queries;             // [row][pair], times log2(e) scale
  float *maximum, *denominator;  // [kSlots], in base 2; [kSlots][kWidth], of each lane's keys
  float* sums;                   // [panel][row][kColumns]
  // and of the tile and the block at hand:
  float* scores;      // [kColumns of the keys][row][kColumns]
  float* numerators;  // [row][key]
  uint32_t* weights;  // the same, as pairs
  float* factors;     // [kSlots]
  size_t bytes;

  Scratch(const Cut& c, int thread, void* base) {
    ScratchCutter cut(base);
    packed = cut.take<uint32_t>(c.all * c.keyBlocks * c.blockWords);
    const int64_t rows = c.kernel.rows;
    for (int i = 0; i <= thread; ++i) {
      queries = cut.take<uint32_t>(c.blockTiles * rows * c.depth);
      maximum = cut.take<float>(c.blockTiles * kSlots);
      denominator = cut.take<float>(c.blockTiles * kSlots * kWidth);
      sums = cut.take<float>(c.blockTiles * c.valuePanels * rows * kColumns);
      scores = cut.take<float>(rows * kKeys);
      numerators = cut.take<float>(rows * kKeys);
      weights = cut.take<uint32_t>(rows * kKeys / 2);
      factors = cut.take<float>(kSlots);
    }
    bytes = cut.bytes();
  }
};

void packBlock(const Cut& c, const Attention& op, int64_t task, uint32_t* packed) {
  const int64_t head = task / c.keyBlocks, n = head / c.heads, h = head % c.heads;
  const int64_t first = task % c.keyBlocks * kKeys, count = minOf<int64_t>(kKeys, c.keys - first);
  const float* const k = op.k.f32() + (n * c.keys + first) * op.k.ld + h * op.shape.kHead;
  const float* const v = op.v.f32() + (n * c.keys + first) * op.v.ld + h * op.shape.vHead;
  uint32_t* to = packed + task * c.blockWords;
  for (int64_t i = 0; i < count; i += kColumns)
    c.kernel.pack({k + i * op.k.ld, DType::f32, op.k.ld, nullptr}, false, int(minOf<int64_t>(kColumns, count - i)),
                  c.dim, c.depth, kColumns, to + i * c.depth, 0);
  to += c.keyWords;
  for (int64_t i = 0; i < c.valuePanels; ++i, to += kKeys / 2 * kColumns)
    c.kernel.pack({v + i * kColumns, DType::f32, op.v.ld, nullptr}, true,
                  int(minOf<int64_t>(kColumns, c.dim - i * kColumns)), count, c.kernel.pairsOf(count), c.width(i), to,
                  0);
}

// The scores of a tile of `rows` queries and a block of keys become numerators; carries the maxima and denominators on.
struct Softmax {
  const float* scores;  // as Scratch has them
  float *numerators, *maximum, *denominator, *factors;
  int rows, tileRows;
  int64_t keys, stride;  // of a row of numerators: a multiple of kColumns
  const float* mask;     // null: none
  int64_t maskLd;

  DDPM_INLINE float* at(int row, int64_t i) const {
    return const_cast<float*>(scores) + (i / kColumns * tileRows + row) * kColumns + i % kColumns;
  }

  void addMask() const {
    for (int r = 0; r < rows; ++r)
      for (int64_t i = 0; i < keys; i += kWidth) {
        const vf m = loadPart(mask + r * maskLd + i, int(minOf<int64_t>(kWidth, keys - i)));
        store(at(r, i), select(m == 0.0f, broadcast(kMaskedScore), load(at(r, i))));
      }
  }

  DDPM_INLINE vf largest(int row) const {
    vf most = broadcast(-__builtin_inff());
    int64_t i = 0;
    for (; i + kWidth <= keys; i += kWidth) most = max(most, load(at(row, i)));
    if (i < keys) most = select(iota() < broadcastInt(int(keys - i)), max(most, load(at(row, i))), most);
    return most;
  }

  // The maximum of each row; false where none has changed.
  bool carryMaxima() const {
    vi changed = {};
    for (int first = 0; first < rows; first += kWidth) {
      vf block[kWidth];
      for (int j = 0; j < kWidth; ++j) block[j] = first + j < rows ? largest(first + j) : broadcast(0.0f);
      transpose(block);
      const vf before = load(maximum + first);
      vf most = before;
      for (int j = 0; j < kWidth; ++j) most = max(most, block[j]);
      store(maximum + first, most);
      vf factor[1] = {before - most};
      exp2All(factor);
      store(factors + first, factor[0]);
      changed |= before != most;
    }
    for (int j = 0; j < kWidth; ++j)
      if (changed[j]) return true;
    return false;
  }

  void computeRow(int row) const {
    const vf most = broadcast(maximum[row]);
    float* const to = numerators + row * stride;
    vf total = load(denominator + row * kWidth) * broadcast(factors[row]);
    for (int64_t i = 0; i < stride; i += kTogether * kWidth) {
      vf x[kTogether];
#pragma GCC unroll 4
      for (int j = 0; j < kTogether; ++j) x[j] = load(at(row, i + j * kWidth)) - most;
      exp2All(x);
      if (i + kTogether * kWidth > keys)
        for (int j = 0; j < kTogether; ++j)
          x[j] = select(iota() < broadcastInt(int(keys - i) - j * kWidth), x[j], zero());
#pragma GCC unroll 4
      for (int j = 0; j < kTogether; ++j) {
        store(to + i + j * kWidth, x[j]);
        total += x[j];
      }
    }
    store(denominator + row * kWidth, total);
  }
};

// Carries a tile on by a block of keys.
void attend(const Cut& c, const Attention& op, const Scratch& s, int64_t tile, int rows, const uint32_t* packed,
            int64_t keys, const float* mask, bool isFirst) {
  const int tileRows = c.kernel.rows;
  const uint32_t* row[bf16::kMaxRows];
  for (int r = 0; r < rows; ++r) row[r] = s.queries + (tile * tileRows + r) * c.depth;
  for (int64_t i = 0; i < keys; i += kColumns)
    c.kernel.multiply({row, rows, packed + i * c.depth, kColumns, c.depth, false, s.scores + i * tileRows, 0});

  const int64_t stride = roundUp<int64_t>(keys, maxOf(kColumns, kTogether * kWidth));
  const Softmax softmax = {s.scores,
                           s.numerators,
                           s.maximum + tile * kSlots,
                           s.denominator + tile * kSlots * kWidth,
                           s.factors,
                           rows,
                           tileRows,
                           keys,
                           stride,
                           mask,
                           op.mask.ld};
  if (mask) softmax.addMask();
  const bool isScaled = softmax.carryMaxima() && !isFirst;
  for (int r = 0; r < rows; ++r) softmax.computeRow(r);
  c.kernel.round(s.numerators, rows * stride, 1.0f, rows * stride / 2, s.weights);

  for (int r = 0; r < rows; ++r) row[r] = s.weights + r * stride / 2;
  float* sums = s.sums + tile * c.valuePanels * tileRows * kColumns;
  packed += c.keyWords;
  for (int64_t i = 0; i < c.valuePanels; ++i, sums += tileRows * kColumns, packed += kKeys / 2 * kColumns) {
    if (isScaled)
      for (int r = 0; r < rows; ++r)
        for (int j = 0; j < c.width(i); j += kWidth)
          store(sums + r * kColumns + j, load(sums + r * kColumns + j) * broadcast(s.factors[r]));
    c.kernel.multiply({row, rows, packed, c.width(i), c.kernel.pairsOf(keys), !isFirst, sums, 0});
  }
}

void runTask(const Cut& c, const Attention& op, const Scratch& s, int64_t task) {
  const int64_t head = task / c.blocks, block = task % c.blocks, n = head / c.heads, h = head % c.heads;
  const int64_t firstTile = c.tiles * block / c.blocks, endTile = c.tiles * (block + 1) / c.blocks;
  const int64_t count = endTile - firstTile, tileRows = c.kernel.rows;
  const auto rowsOf = [&](int64_t i) { return int(c.firstQuery(firstTile + i + 1) - c.firstQuery(firstTile + i)); };
  const float* const q = op.q.f32() + n * c.queries * op.q.ld + h * op.shape.qHead;
  for (int64_t i = 0; i < count; ++i)
    for (int r = 0; r < rowsOf(i); ++r)
      c.kernel.round(q + (c.firstQuery(firstTile + i) + r) * op.q.ld, c.dim, op.shape.scale * kLog2e, c.depth,
                     s.queries + (i * tileRows + r) * c.depth);
  for (int64_t i = 0; i < count * kSlots; ++i) s.maximum[i] = -__builtin_inff();
  for (int64_t i = 0; i < count * kSlots * kWidth; ++i) s.denominator[i] = 0.0f;

  const float* const mask = op.mask ? maskOf(op.mask, n) : nullptr;
  for (int64_t key = 0; key < c.keys; key += kKeys) {
    const uint32_t* const packed = s.packed + (head * c.keyBlocks + key / kKeys) * c.blockWords;
    for (int64_t i = 0; i < count; ++i)
      attend(c, op, s, i, rowsOf(i), packed, minOf<int64_t>(kKeys, c.keys - key),
             mask ? mask + c.firstQuery(firstTile + i) * op.mask.ld + key : nullptr, key == 0);
  }

  float* const lse = op.lse.f32() + n * op.lse.ld + h * c.queries;
  for (int64_t i = 0; i < count; ++i)
    for (int r = 0; r < rowsOf(i); ++r) {
      const int64_t query = c.firstQuery(firstTile + i) + r, slot = i * kSlots + r;
      const float denominator = sum(load(s.denominator + slot * kWidth)), maximum = s.maximum[slot];
      lse[query] = maximum == kMaskedScore ? kMaskedScore : maximum * kLn2 + __builtin_logf(denominator);
      const vf factor = broadcast(1.0f / denominator);
      const float* const sums = s.sums + (i * c.valuePanels * tileRows + r) * kColumns;
      float* const y = op.y.f32() + (n * c.queries + query) * op.y.ld + h * c.dim;
      forChannels(c.dim, [&](int64_t channel, auto part) DDPM_LAMBDA_INLINE {
        const float* const from = sums + channel / kColumns * tileRows * kColumns + channel % kColumns;
        part.store(y + channel, load(from) * factor);
      });
    }
}

}  // namespace

size_t bf16Scratch(const CpuDevice& device, const Attention& op) {
  return Scratch(Cut(device, op), device.pool.threads() - 1, nullptr).bytes;
}

void runBf16(CpuDevice& device, const Attention& op, void* memory) {
  const Cut c(device, op);
  uint32_t* const packed = Scratch(c, 0, memory).packed;
  device.pool.parallelFor(c.all * c.keyBlocks, [&](int64_t task, int) { packBlock(c, op, task, packed); });
  device.pool.parallelFor(c.all * c.blocks,
                          [&](int64_t task, int thread) { runTask(c, op, Scratch(c, thread, memory), task); });
}

}  // namespace ddpm::cpu::DDPM_ISA
