// Direct convolution, forward and gradient of the input: one indirect GEMM; see conv2d.h. Linear layers are its case of
// one tap.
#include "kernels/cpu/conv2d.h"

#include "kernels/cpu/panels.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

// One spatial axis. Output i of `count` lies at start + i*step of the destination; its tap j of `taps` has the weights
// of filter position firstTap + j*tapStep and reads position i*sourceStep + sourceFirst + j*sourceTapStep of the
// source, which is padding where it is not in [0, source); where the source is upsampled, its pixel p / 2.
struct Axis {
  int32_t count, start, step;
  int32_t taps, firstTap, tapStep;
  int32_t source, sourceStep, sourceFirst, sourceTapStep;
  int32_t halve;  // 1 where the source is upsampled, else 0
};

// Forward: y_i reads x[(i*stride - pad + r) / upsample].
Axis forwardAxis(int32_t out, int32_t in, int32_t filter, const ConvShape& shape, int32_t pad) {
  return {out, 0, 1, filter, 0, 1, in * shape.upsample, shape.stride, -pad, 1, shape.upsample - 1};
}

// Gradient of the input: dx_h gets dy[(h + pad - r) / stride] for those r that divide. They are the same for all h of
// one phase (h + pad) mod stride, with r = phase, phase + stride, ..., so each phase is a convolution of stride 1 of
// its own.
Axis dgradAxis(int32_t in, int32_t out, int32_t filter, int32_t stride, int32_t pad, int32_t phase) {
  const int32_t start = ((phase - pad) % stride + stride) % stride;
  const int32_t count = start < in ? (in - start + stride - 1) / stride : 0;
  const int32_t taps = phase < filter ? (filter - phase + stride - 1) / stride : 0;
  return {count, start, stride, taps, phase, stride, out, 1, (start + pad - phase) / stride, -1, 0};
}

struct Gemm {
  Axis rows, columns;
  Tensor from, to;
  Tensor bias, sampleBias, residual;
  Filters filters;
  const float* kept;  // packed filters

  int64_t pixels() const { return int64_t(to.n) * rows.count * columns.count; }
  int32_t taps() const { return rows.taps * columns.taps; }
  // The filter's position that tap `tap` of the output has the weights of.
  int filterTap(int tap) const {
    const int r = rows.firstTap + tap / columns.taps * rows.tapStep;
    const int s = columns.firstTap + tap % columns.taps * columns.tapStep;
    return r * filters.w.w + s;
  }
};

// Steps of the sum: channels [c, endC) of each of the taps [tap, endTap).
struct Part {
  int32_t tap, endTap, c, endC;
};

// How the output is cut into tasks. No result depends on it.
struct Cut {
  int64_t chunks;      // pieces of the pixels
  int32_t groups;      // pieces of the panels
  int64_t tiles;       // of kTileRows pixels or less, all together
  int64_t chunkTiles;  // the most in a chunk
  Packing packing;
};

Cut cutOf(const Gemm& g, int threads) {
  // A chunk's input (its own pixels; halos come on top) and one panel of weights stay in the L2 cache.
  constexpr int64_t kChunkBytes = 96 << 10, kMinChunkTiles = 4, kMaxChunkTiles = 64;
  constexpr int64_t kOneChunk = 8;            // tiles that are not worth reading all weights once more
  constexpr int64_t kOwnTiles = 32;           // packing a weight takes as long as several products with it
  constexpr int64_t kSharedFloats = 1 << 20;  // that stay in the L3 cache
  constexpr int64_t kSmall = 256 << 10;       // multiply-adds that are not worth waking a thread for
  Cut cut;
  cut.tiles = ceilDiv<int64_t>(g.pixels(), kTileRows);
  const bool shares = cut.tiles > kOwnTiles && panelFloats(g.filters) <= kSharedFloats;
  cut.packing = g.kept ? Packing::kept : shares ? Packing::shared : Packing::own;
  const int64_t pixelBytes = 4 * int64_t(g.from.c) * g.rows.sourceStep * g.columns.sourceStep;
  const int64_t most = minOf(maxOf(kChunkBytes / (pixelBytes * kTileRows), kMinChunkTiles), kMaxChunkTiles);
  const int32_t panels = ceilDiv(g.to.c, kPanel);
  const int64_t work = g.pixels() * g.to.c * maxOf(g.taps(), 1) * g.from.c;
  const int64_t tasks = threads == 1 || work < kSmall ? 1 : 8 * int64_t(threads);
  // Where there are few panels, chunks are what threads share.
  const int64_t least = minOf(ceilDiv<int64_t>(tasks, panels), cut.tiles / kMinChunkTiles);
  const int64_t chunks = cut.packing == Packing::own ? cut.tiles / kOwnTiles : ceilDiv(cut.tiles, most);
  cut.chunks = cut.packing == Packing::kept && cut.tiles <= kOneChunk ? 1 : maxOf(maxOf(chunks, least), int64_t(1));
  cut.chunkTiles = ceilDiv(cut.tiles, cut.chunks);
  cut.groups = int32_t(minOf<int64_t>(panels, ceilDiv(tasks, cut.chunks)));
  return cut;
}

// So few tiles share the time to read a panel of weights from memory that it shows.
constexpr int64_t kFewTiles = 3;

// Where a task packs its own weights, or a few tiles share the time to read kept ones from memory, a panel is
// multiplied in parts, which stay in the L1 cache while all tiles of the task go over them; between the parts the
// tiles' sums are in memory. A part is several taps, or a piece of one.
constexpr int kPartSteps = 6144 / kPanel;

struct Parts {
  int32_t taps, depth;
  int32_t partTaps, pieces, pieceDepth, count;

  Parts(const Gemm& g, const Cut& cut) : taps(g.taps()), depth(g.from.c) {
    const bool whole = cut.packing == Packing::shared || (cut.packing == Packing::kept && cut.chunkTiles > kFewTiles);
    partTaps = whole ? maxOf(taps, 1) : maxOf(kPartSteps / depth, 1);
    pieces = whole ? 1 : ceilDiv(depth, kPartSteps);
    pieceDepth = roundUp(ceilDiv(depth, pieces), kWidth);
    count = maxOf(ceilDiv(taps, partTaps) * pieces, 1);
  }
  Part part(int i) const {
    const int32_t tap = i / pieces * partTaps, c = i % pieces * pieceDepth;
    return {tap, minOf(tap + partTaps, taps), minOf(c, depth), minOf(c + pieceDepth, depth)};
  }
  // Floats of a packed part.
  size_t floats() const { return size_t(minOf(partTaps, taps)) * minOf(pieceDepth, depth) * kPanel; }
};

// What a thread needs to know of the output pixels of a task, in tiles of kTileRows.
struct Chunk {
  const float** source;  // [tile][tap][kTileRows]
  int64_t* pixel;        // [tile][kTileRows], index in the destination
  int32_t* sample;       // [tile][kTileRows]
  float* sums;           // [tile][kTileRows][kPanel], where there is more than one part
  float* panel;          // the packed part, where it is the task's own
};

// Memory of a thread, in the order of Chunk.
struct ChunkLayout {
  size_t source, pixel, sample, sums, bytes;

  ChunkLayout(const Gemm& g, const Cut& cut) {
    const size_t rows = size_t(cut.chunkTiles) * kTileRows;
    const Parts parts(g, cut);
    source = roundUp<size_t>(rows * g.taps() * sizeof(float*), kCacheLine);
    pixel = roundUp<size_t>(rows * sizeof(int64_t), kCacheLine);
    sample = roundUp<size_t>(rows * sizeof(int32_t), kCacheLine);
    sums = parts.count > 1 ? rows * kPanel * sizeof(float) : 0;
    bytes = source + pixel + sample + sums;
    if (cut.packing == Packing::own) bytes += roundUp<size_t>(parts.floats() * sizeof(float), kCacheLine);
  }

  Chunk chunk(char* memory) const {
    char* const at = memory + source + pixel + sample;
    return {reinterpret_cast<const float**>(memory), reinterpret_cast<int64_t*>(memory + source),
            reinterpret_cast<int32_t*>(memory + source + pixel), reinterpret_cast<float*>(at),
            reinterpret_cast<float*>(at + sums)};
  }
};

// First of the pixels of tile t: tiles are of equal size, or differ by one pixel.
int64_t tileBegin(const Gemm& g, const Cut& cut, int64_t t) { return g.pixels() * t / cut.tiles; }

void describe(const Gemm& g, const Cut& cut, int64_t firstTile, int64_t endTile, const float* zeros, Chunk& chunk) {
  const Axis &rows = g.rows, &columns = g.columns;
  const int32_t taps = g.taps();
  const int64_t first = tileBegin(g, cut, firstTile);
  int32_t j = int32_t(first % columns.count), i = int32_t(first / columns.count % rows.count);
  int32_t n = int32_t(first / columns.count / rows.count);
  for (int64_t t = firstTile; t < endTile; ++t) {
    const int64_t slot = (t - firstTile) * kTileRows;
    const int m = int(tileBegin(g, cut, t + 1) - tileBegin(g, cut, t));
    for (int row = 0; row < m; ++row) {
      chunk.pixel[slot + row] =
          (int64_t(n) * g.to.h + rows.start + i * rows.step) * g.to.w + columns.start + j * columns.step;
      chunk.sample[slot + row] = n;
      const float** source = chunk.source + slot * taps + row;
      const int32_t w = j * columns.sourceStep + columns.sourceFirst;
      int32_t h = i * rows.sourceStep + rows.sourceFirst;
      for (int r = 0; r < rows.taps; ++r, h += rows.sourceTapStep) {
        const bool inside = uint32_t(h) < uint32_t(rows.source);
        const float* line = g.from.f32() + (int64_t(n) * g.from.h + (h >> rows.halve)) * g.from.w * g.from.ld;
        for (int s = 0, ws = w; s < columns.taps; ++s, ws += columns.sourceTapStep, source += kTileRows)
          *source = inside && uint32_t(ws) < uint32_t(columns.source) ? line + int64_t(ws >> columns.halve) * g.from.ld
                                                                      : zeros;
      }
      if (++j == columns.count) {
        j = 0;
        if (++i == rows.count) {
          i = 0;
          ++n;
        }
      }
    }
  }
}

// Weights stream from the L2 cache, once a tile; the distance in floats at which they are asked for (measured).
constexpr int kAhead = 256;
constexpr int kLine = kCacheLine / 4;

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
  const int64_t* const pixel = chunk.pixel + slot;
  if (isLast) {
    for (int m = 0; m < M; ++m)
      for (int i = 0; i < width; i += kLine) __builtin_prefetch(g.to.f32() + pixel[m] * g.to.ld + first + i, 1);
    if (g.residual)
      for (int m = 0; m < M; ++m)
        for (int i = 0; i < width; i += kLine)
          __builtin_prefetch(g.residual.f32() + pixel[m] * g.residual.ld + first + i);
  }
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
  const int32_t* const sample = chunk.sample + slot;
  for (int v = 0; v < V; ++v) {
    const int c = first + v * kWidth, n = minOf(valid - v * kWidth, kWidth);
    if (n <= 0) break;
    const auto get = [&](const float* p) { return n == kWidth ? load(p) : loadPart(p, n); };
    const vf bias = g.bias ? get(g.bias.f32() + c) : zero();
    for (int m = 0; m < M; ++m) {
      vf y = acc[m][v] + bias;
      if (g.sampleBias) y = y + get(g.sampleBias.f32() + int64_t(sample[m]) * g.sampleBias.ld + c);
      if (g.residual) y = y + get(g.residual.f32() + pixel[m] * g.residual.ld + c);
      float* to = g.to.f32() + pixel[m] * g.to.ld + c;
      n == kWidth ? store(to, y) : storePart(to, y, n);
    }
  }
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
  describe(g, cut, firstTile, endTile, zeros, chunk);
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

size_t scratchOf(const CpuDevice& device, const Gemm& g) {
  const Cut cut = cutOf(g, device.pool.threads());
  return zeroBytes(g) + sharedBytes(g, cut) + device.pool.threads() * ChunkLayout(g, cut).bytes;
}

void runGemm(CpuDevice& device, const Gemm& g, void* scratch) {
  if (g.pixels() == 0) return;
  const Cut cut = cutOf(g, device.pool.threads());
  float* const zeros = static_cast<float*>(scratch);
  for (int32_t c = 0; c < g.from.c; ++c) zeros[c] = 0;
  char* const after = static_cast<char*>(scratch) + zeroBytes(g);
  float* const shared = reinterpret_cast<float*>(after);
  char* const memory = after + sharedBytes(g, cut);
  if (cut.packing == Packing::shared) packPanels(device, g.filters, shared);
  const float* const panels = g.kept ? g.kept : cut.packing == Packing::shared ? shared : nullptr;
  const size_t bytes = ChunkLayout(g, cut).bytes;
  device.pool.parallelFor(cut.chunks * cut.groups, [&](int64_t task, int thread) {
    runTask(g, cut, task, zeros, panels, memory + thread * bytes);
  });
}

Gemm gemmOf(const Conv2d& op) {
  const ConvShape& s = op.shape;
  return {forwardAxis(op.y.h, op.x.h, op.w.h, s, s.padTop),
          forwardAxis(op.y.w, op.x.w, op.w.w, s, s.padLeft),
          op.x,
          op.y,
          op.bias,
          op.sampleBias,
          op.residual,
          {op.w, op.scale, ConvPass::forward},
          static_cast<const float*>(op.packed)};
}

Gemm gemmOf(const Conv2dDgrad& op, int32_t phaseRow, int32_t phaseColumn) {
  const ConvShape& s = op.shape;
  return {dgradAxis(op.dx.h, op.dy.h, op.w.h, s.stride, s.padTop, phaseRow),
          dgradAxis(op.dx.w, op.dy.w, op.w.w, s.stride, s.padLeft, phaseColumn),
          op.dy,
          op.dx,
          {},
          {},
          op.residual,
          {op.w, op.scale, ConvPass::dgrad},
          static_cast<const float*>(op.packed)};
}

}  // namespace

size_t scratch(const CpuDevice& device, const Conv2d& op) {
  return isWinograd(op.algo) ? winogradScratch(device, op) : scratchOf(device, gemmOf(op));
}

void run(CpuDevice& device, const Conv2d& op, void* scratch) {
  isWinograd(op.algo) ? runWinograd(device, op, scratch) : runGemm(device, gemmOf(op), scratch);
}

size_t scratch(const CpuDevice& device, const Conv2dDgrad& op) {
  if (isWinograd(op.algo)) return winogradScratch(device, op);
  size_t most = 0;
  for (int32_t r = 0; r < op.shape.stride; ++r)
    for (int32_t s = 0; s < op.shape.stride; ++s) most = maxOf(most, scratchOf(device, gemmOf(op, r, s)));
  return most;
}

void run(CpuDevice& device, const Conv2dDgrad& op, void* scratch) {
  if (isWinograd(op.algo)) return runWinograd(device, op, scratch);
  for (int32_t r = 0; r < op.shape.stride; ++r)
    for (int32_t s = 0; s < op.shape.stride; ++s) runGemm(device, gemmOf(op, r, s), scratch);
}

}  // namespace ddpm::cpu::DDPM_ISA
