// Direct convolution, forward and gradient of the input: one indirect GEMM; see conv2d.h. Linear layers are its case of
// one tap.
#include "kernels/cpu/conv2d.h"

#include "kernels/cpu/conv2d_bf16.h"
#include "kernels/cpu/conv2d_gemm.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr Tile kTile = {kTileRows, kPanel, kWidth, kWidth, 32 * kTileRows};

// Weights stream from the L2 cache, once a tile; the distance in floats at which they are asked for (measured).
constexpr int kAhead = 256;

// Largest panel that is fetched while the one before it is multiplied: both fit the L2 cache beside the input.
constexpr int64_t kNextFloats = 16 << 10;

// acc[m][v] += sum_c a[m][c] * b[c - begin][v] for begin <= c < end; asks for a cache line at the distance `ahead` at
// each step.
template <int M, int V>
DDPM_INLINE void multiply(vf (&acc)[M][V], const float* const* a, const float* b, int64_t begin, int64_t end,
                          int64_t ahead) {
  const float* row[M];
  for (int m = 0; m < M; ++m) row[m] = a[m] + begin;
  const int64_t depth = end - begin;
#pragma GCC unroll 4
  for (int64_t c = 0; c < depth; ++c) {
    __builtin_prefetch(b + c * V * kWidth + (V == 1 ? kAhead : ahead));
    vf column[V];
    for (int v = 0; v < V; ++v) column[v] = load(b + (c * V + v) * kWidth);
    for (int m = 0; m < M; ++m) {
      const vf x = broadcast(row[m][c]);
      for (int v = 0; v < V; ++v) acc[m][v] = x * column[v] + acc[m][v];
    }
  }
}

// One part of one tile: M pixels x V vectors of channels from `first` on, `valid` of them there. Not inlined: among
// other tiles, GCC finds no registers for its sums.
template <int M, int V>
__attribute__((noinline)) void tile(const Gemm& g, const Chunk& chunk, int64_t slot, const Part& part, bool isFirst,
                                    bool isLast, const float* panels, int first, int valid, int64_t ahead) {
  constexpr int width = V * kWidth;
  if (isLast) fetchOutput(g, chunk, slot, M, width, first);
  float* const sums = chunk.sums + slot * kPanel;
  vf acc[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
  if (!isFirst) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[m][v] = load(sums + (m * V + v) * kWidth);
  }
  const float* const* source = chunk.source + slot * g.taps() + part.tap * kTileRows;
  const float* b = chunk.panel;
  for (int t = part.tap; t < part.endTap; ++t, source += kTileRows, b += (part.endC - part.c) * width) {
    if (panels) b = panels + panelOffset(g.filters, first) + (int64_t(g.filterTap(t)) * g.from.c + part.c) * width;
    multiply(acc, source, b, part.c, part.endC, ahead);
  }
  if (!isLast) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(sums + (m * V + v) * kWidth, acc[m][v]);
    return;
  }
  finish(g, chunk, slot, M, V, first, valid, [&](int m, int v) DDPM_LAMBDA_INLINE { return acc[m][v]; });
}

// Packs a part of the panel whose channels start at `first`, and asks for the part after it.
void packPart(const Gemm& g, const Parts& parts, int i, int first, float* to) {
  const Part part = parts.part(i), next = parts.part(i + 1 < parts.count ? i + 1 : 0);
  const int width = panelWidth(g.to.c, first);
  int64_t ahead = g.filters.distance(i + 1 < parts.count ? 0 : kPanel, next.c - part.c);
  if (parts.taps > 0) ahead += int64_t(g.filterTap(next.tap) - g.filterTap(part.tap)) * g.filters.w.c;
  for (int t = part.tap; t < part.endTap; ++t, to += (part.endC - part.c) * width)
    packTap(g.filters, g.filterTap(t), first, width, part.c, part.endC, to, ahead);
}

// In floats; of different arrays.
int64_t distance(const float* from, const float* to) {
  return (reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from)) / int64_t(sizeof(float));
}

// `panels`: all packed weights, or null where the task packs its own.
void runTask(const Gemm& g, const Cut& cut, int64_t task, const float* zeros, const float* panels, char* memory) {
  const int32_t taps = g.taps(), count = ceilDiv(g.to.c, kPanel);
  const int64_t c = task / cut.groups, group = task % cut.groups;
  const int64_t firstTile = cut.tiles * c / cut.chunks, endTile = cut.tiles * (c + 1) / cut.chunks;
  const auto pixels = [&](int64_t t) { return int(tileBegin(g, cut, t + 1) - tileBegin(g, cut, t)); };
  Chunk chunk = ChunkLayout(g, cut).chunk(memory);
  describe(g, g.from, cut, firstTile, endTile, zeros, chunk);
  const Parts parts(g, cut);
  // The input of the next chunk, where that is the next task and each pixel's input is its own.
  const float* input = g.from.f32() + g.from.rows() * endTile / cut.tiles * g.from.ld;
  const int64_t inputFloats = cut.groups == 1 && taps == 1 ? cut.chunkTiles * kTileRows * g.from.ld : 0;
  for (int p = int(count * group / cut.groups); p < int(count * (group + 1) / cut.groups); ++p) {
    const int first = p * kPanel, width = panelWidth(g.to.c, first), valid = minOf(width, g.to.c - first);
    const int64_t lines = width / kLine, piece = int64_t(first) * g.from.c;
    for (int i = 0; i < parts.count; ++i) {
      const Part part = parts.part(i);
      if (!panels) packPart(g, parts, i, first, chunk.panel);
      const int64_t floats = int64_t(part.endTap - part.tap) * (part.endC - part.c) * width;
      for (int64_t t = 0; t < endTile - firstTile; ++t) {
        int64_t ahead = kAhead;
        // One line a step: the first tiles fetch what comes next of the weights, those after them a piece of the next
        // chunk's input.
        if (panels && floats <= kNextFloats) {
          if (t < lines)
            ahead = floats + t * kLine;
          else if (t < 2 * lines && piece < inputFloats)
            ahead = distance(panels + panelOffset(g.filters, first), input + piece + (t - lines) * kLine);
        }
        const int64_t slot = t * kTileRows;
        withRows(pixels(firstTile + t), [&]<int M>() {
          if (width == kPanel)
            tile<M, kTileVectors>(g, chunk, slot, part, i == 0, i + 1 == parts.count, panels, first, valid, ahead);
          else
            tile<M, 1>(g, chunk, slot, part, i == 0, i + 1 == parts.count, panels, first, valid, ahead);
        });
      }
    }
  }
}

size_t zeroBytes(const Gemm& g) { return roundUp<size_t>(size_t(g.from.c) * sizeof(float), kCacheLine); }

size_t sharedBytes(const Gemm& g, const Cut& cut) {
  return cut.packing == Packing::shared ? roundUp<size_t>(size_t(panelFloats(g.filters)) * sizeof(float), kCacheLine)
                                        : 0;
}

size_t scratchOf(const CpuDevice& device, const Gemm& g, ConvAlgo algo) {
  if (algo == ConvAlgo::directBf16) return bf16Scratch(device, g);
  const Cut cut = cutOf(g, kTile, g.from.c, device.pool.threads());
  return zeroBytes(g) + sharedBytes(g, cut) + device.pool.threads() * ChunkLayout(g, cut).bytes;
}

void runGemm(CpuDevice& device, const Gemm& g, ConvAlgo algo, void* scratch) {
  if (g.pixels() == 0) return;
  if (algo == ConvAlgo::directBf16) return runBf16(device, g, scratch);
  const Cut cut = cutOf(g, kTile, g.from.c, device.pool.threads());
  float* const zeros = static_cast<float*>(scratch);
  for (int32_t c = 0; c < g.from.c; ++c) zeros[c] = 0;
  char* const after = static_cast<char*>(scratch) + zeroBytes(g);
  float* const shared = reinterpret_cast<float*>(after);
  char* const memory = after + sharedBytes(g, cut);
  if (cut.packing == Packing::shared) packPanels(device, g.filters, shared);
  const float* const panels = g.kept                           ? static_cast<const float*>(g.kept)
                              : cut.packing == Packing::shared ? shared
                                                               : nullptr;
  const size_t bytes = ChunkLayout(g, cut).bytes;
  device.pool.parallelFor(cut.chunks * cut.groups, [&](int64_t task, int thread) {
    runTask(g, cut, task, zeros, panels, memory + thread * bytes);
  });
}

}  // namespace

size_t scratch(const CpuDevice& device, const Conv2d& op) {
  if (isWinograd(op.algo)) return winogradScratch(device, op);
  return scratchOf(device, gemmOf(op), op.algo);
}

void run(CpuDevice& device, const Conv2d& op, void* scratch) {
  if (isWinograd(op.algo)) return runWinograd(device, op, scratch);
  runGemm(device, gemmOf(op), op.algo, scratch);
}

size_t scratch(const CpuDevice& device, const Conv2dDgrad& op) {
  if (isWinograd(op.algo)) return winogradScratch(device, op);
  size_t most = 0;
  for (int32_t r = 0; r < op.shape.stride; ++r)
    for (int32_t s = 0; s < op.shape.stride; ++s) most = maxOf(most, scratchOf(device, gemmOf(op, r, s), op.algo));
  return most;
}

void run(CpuDevice& device, const Conv2dDgrad& op, void* scratch) {
  if (isWinograd(op.algo)) return runWinograd(device, op, scratch);
  for (int32_t r = 0; r < op.shape.stride; ++r)
    for (int32_t s = 0; s < op.shape.stride; ++s) runGemm(device, gemmOf(op, r, s), op.algo, scratch);
}

}  // namespace ddpm::cpu::DDPM_ISA
