// Direct convolution, forward and gradient of the input: one indirect GEMM; see conv2d.h. Linear layers are its case of
// one tap.
#include "kernels/cpu/conv2d.h"

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
  const float* packed;
  int32_t filterRows, filterColumns;

  int64_t pixels() const { return int64_t(to.n) * rows.count * columns.count; }
  int32_t taps() const { return rows.taps * columns.taps; }

  // Weights of a tap, of the panel whose channels start at `first` and are `width`.
  const float* weights(int first, int width, int tap) const {
    const int r = rows.firstTap + tap / columns.taps * rows.tapStep;
    const int s = columns.firstTap + tap % columns.taps * columns.tapStep;
    return packed + (int64_t(first) * filterRows * filterColumns + int64_t(r * filterColumns + s) * width) * from.c;
  }
};

// What a thread needs to know of the output pixels of a task, in tiles of kTileRows.
struct Chunk {
  const float** source;  // [tile][tap][kTileRows]
  int64_t* pixel;        // [tile][kTileRows], index in the destination
  int32_t* sample;       // [tile][kTileRows]
  float* sums;           // [tile][kTileRows][kPanel], of few tiles
};

// How the output is cut into tasks. No result depends on it.
struct Cut {
  int64_t chunks;      // pieces of the pixels
  int32_t groups;      // pieces of the panels
  int64_t tiles;       // of kTileRows pixels or less, all together
  int64_t chunkTiles;  // the most in a chunk
};

// So few tiles share the time to read a panel of weights from memory that it shows.
constexpr int64_t kFewTiles = 3;

Cut cutOf(const Gemm& g, int threads) {
  // A chunk's input (its own pixels; halos come on top) and one panel of weights stay in the L2 cache.
  constexpr int64_t kChunkBytes = 96 << 10, kMinChunkTiles = 4, kMaxChunkTiles = 64;
  constexpr int64_t kOneChunk = 8;       // tiles that are not worth reading all weights once more
  constexpr int64_t kSmall = 256 << 10;  // multiply-adds that are not worth waking a thread for
  Cut cut;
  cut.tiles = ceilDiv<int64_t>(g.pixels(), kTileRows);
  const int64_t pixelBytes = 4 * int64_t(g.from.c) * g.rows.sourceStep * g.columns.sourceStep;
  const int64_t most = minOf(maxOf(kChunkBytes / (pixelBytes * kTileRows), kMinChunkTiles), kMaxChunkTiles);
  const int32_t panels = ceilDiv(g.to.c, kPanel);
  const int64_t work = g.pixels() * g.to.c * maxOf(g.taps(), 1) * g.from.c;
  const int64_t tasks = threads == 1 || work < kSmall ? 1 : 8 * int64_t(threads);
  // Where there are few panels, chunks are what threads share.
  const int64_t least = minOf(ceilDiv<int64_t>(tasks, panels), cut.tiles / kMinChunkTiles);
  cut.chunks = cut.tiles <= kOneChunk ? 1 : maxOf(ceilDiv(cut.tiles, most), least);
  cut.chunkTiles = ceilDiv(cut.tiles, cut.chunks);
  cut.groups = int32_t(minOf<int64_t>(panels, ceilDiv(tasks, cut.chunks)));
  return cut;
}

// Memory of a thread, in the order of Chunk.
struct ChunkLayout {
  size_t source, pixel, sample, bytes;

  ChunkLayout(const Gemm& g, const Cut& cut) {
    const size_t rows = size_t(cut.chunkTiles) * kTileRows;
    source = roundUp<size_t>(rows * g.taps() * sizeof(float*), kCacheLine);
    pixel = roundUp<size_t>(rows * sizeof(int64_t), kCacheLine);
    sample = roundUp<size_t>(rows * sizeof(int32_t), kCacheLine);
    bytes = source + pixel + sample + size_t(minOf(cut.chunkTiles, kFewTiles)) * kTileRows * kPanel * sizeof(float);
  }

  Chunk chunk(char* memory) const {
    return {reinterpret_cast<const float**>(memory), reinterpret_cast<int64_t*>(memory + source),
            reinterpret_cast<int32_t*>(memory + source + pixel),
            reinterpret_cast<float*>(memory + source + pixel + sample)};
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

// acc[m][v] += sum_c a[m][c] * b[c][v]; asks for a cache line at the distance `ahead` at each step.
template <int M, int V>
DDPM_INLINE void multiply(vf (&acc)[M][V], const float* const* a, const float* b, int64_t depth, int64_t ahead) {
  const float* row[M];
  for (int m = 0; m < M; ++m) row[m] = a[m];
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

// One tile: M pixels x V vectors of channels from `first` on, `valid` of them there. Not inlined: among other tiles,
// GCC finds no registers for its sums.
template <int M, int V>
__attribute__((noinline)) void tile(const Gemm& g, const float* const* source, const int64_t* pixel,
                                    const int32_t* sample, int first, int valid, int64_t ahead) {
  constexpr int width = V * kWidth;
  const int32_t depth = g.from.c;
  const float* panel = g.packed + int64_t(first) * g.filterRows * g.filterColumns * depth;
  for (int m = 0; m < M; ++m)
    for (int i = 0; i < width; i += kLine) __builtin_prefetch(g.to.f32() + pixel[m] * g.to.ld + first + i, 1);
  if (g.residual)
    for (int m = 0; m < M; ++m)
      for (int i = 0; i < width; i += kLine)
        __builtin_prefetch(g.residual.f32() + pixel[m] * g.residual.ld + first + i);
  vf acc[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
  for (int r = 0; r < g.rows.taps; ++r) {
    const int64_t line = int64_t(g.rows.firstTap + r * g.rows.tapStep) * g.filterColumns;
    for (int s = 0; s < g.columns.taps; ++s, source += kTileRows)
      multiply(acc, source, panel + (line + g.columns.firstTap + s * g.columns.tapStep) * depth * width, depth, ahead);
  }
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

// ---- few tiles ----------------------------------------------------------------------------------------------------
// Their weights come from memory, so they go together over a panel, part by part: a part stays in the L1 cache, and the
// one after it is fetched meanwhile. Between the parts the sums are in memory.

constexpr int kPartDepth = 4096 / kPanel;
constexpr int64_t kFewFloats = 8192;  // of a panel, which would stay in the L1 cache as a whole

// Lines are fetched at every kFetchSteps steps, each of them once: a prefetch of a line that is under way costs as much
// as one of another.
constexpr int kFetchSteps = 4;

// Steps [c, endC) of a tap. Each tile fetches `lines` lines at a time, the first of them from `next` on.
struct Part {
  int32_t tap, c, endC;
  const float* next;
  int lines;

  int depth() const { return endC - c; }
};

// sums [M][V] (+)= the part of M pixels and V vectors of channels from `first` on. The loops are unrolled by name: left
// to itself, GCC keeps the sums in memory.
template <int M, int V>
__attribute__((noinline)) void sumPart(const Gemm& g, const Part& part, const float* next, const float* const* source,
                                       int first, float* sums) {
  constexpr int width = V * kWidth;
  const float* row[M];
  for (int m = 0; m < M; ++m) row[m] = source[part.tap * kTileRows + m];
  const float* b = g.weights(first, width, part.tap);
  vf acc[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
  if (part.tap > 0 || part.c > 0) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[m][v] = load(sums + (m * V + v) * kWidth);
  }
  const auto step = [&](int64_t c) DDPM_LAMBDA_INLINE {
    vf column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = load(b + (c * V + v) * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vf x = broadcast(row[m][c]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[m][v] = x * column[v] + acc[m][v];
    }
  };
  int64_t c = part.c;
  for (; c + kFetchSteps <= part.endC; c += kFetchSteps, next += part.lines * kLine) {
    for (int i = 0; i < part.lines; ++i) __builtin_prefetch(next + i * kLine);
#pragma GCC unroll 4
    for (int i = 0; i < kFetchSteps; ++i) step(c + i);
  }
  for (; c < part.endC; ++c) step(c);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + (m * V + v) * kWidth, acc[m][v]);
}

// Writes the channels [first, first + valid) of m pixels from their sums [m][width].
void finish(const Gemm& g, int m, const float* sums, int width, const int64_t* pixel, const int32_t* sample, int first,
            int valid) {
  forChannels(valid, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE {
    const int64_t c = first + i;
    const vf bias = g.bias ? part.load(g.bias.f32() + c) : zero();
    for (int row = 0; row < m; ++row) {
      vf y = load(sums + row * width + i) + bias;
      if (g.sampleBias) y = y + part.load(g.sampleBias.f32() + int64_t(sample[row]) * g.sampleBias.ld + c);
      if (g.residual) y = y + part.load(g.residual.f32() + pixel[row] * g.residual.ld + c);
      part.store(g.to.f32() + pixel[row] * g.to.ld + c, y);
    }
  });
}

// Panel `first` of the tiles; pixels(t) of tile t.
template <class Pixels>
void runFewTiles(const Gemm& g, const Chunk& chunk, int tiles, int first, const Pixels& pixels) {
  const int taps = g.taps(), depth = g.from.c, width = panelWidth(g.to.c, first);
  for (int tap = 0; tap < taps; ++tap) {
    const float* weights = g.weights(first, width, tap);
    for (int c = 0; c < depth; c += kPartDepth) {
      const int end = minOf(depth, c + kPartDepth);
      const Part part = {tap, c, end, weights + int64_t(end) * width, ceilDiv(kFetchSteps * width / kLine, tiles)};
      for (int t = 0; t < tiles; ++t) {
        const float* next = part.next + t * (part.depth() / kFetchSteps) * part.lines * kLine;
        const float* const* source = chunk.source + t * kTileRows * taps;
        float* sums = chunk.sums + t * kTileRows * kPanel;
        withRows(pixels(t), [&]<int M>() {
          if (width == kPanel)
            sumPart<M, kTileVectors>(g, part, next, source, first, sums);
          else
            sumPart<M, 1>(g, part, next, source, first, sums);
        });
      }
    }
  }
  for (int t = 0; t < tiles; ++t)
    finish(g, pixels(t), chunk.sums + t * kTileRows * kPanel, width, chunk.pixel + t * kTileRows,
           chunk.sample + t * kTileRows, first, minOf(width, g.to.c - first));
}

// In floats; of different arrays.
int64_t distance(const float* from, const float* to) {
  return (reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from)) / int64_t(sizeof(float));
}

void runTask(const Gemm& g, const Cut& cut, int64_t task, const float* zeros, char* memory) {
  const int32_t taps = g.taps(), panels = ceilDiv(g.to.c, kPanel);
  const int64_t c = task / cut.groups, group = task % cut.groups;
  const int64_t firstTile = cut.tiles * c / cut.chunks, endTile = cut.tiles * (c + 1) / cut.chunks;
  const auto pixels = [&](int64_t t) {
    return int(tileBegin(g, cut, firstTile + t + 1) - tileBegin(g, cut, firstTile + t));
  };
  Chunk chunk = ChunkLayout(g, cut).chunk(memory);
  describe(g, cut, firstTile, endTile, zeros, chunk);
  // The input of the next chunk, where that is the next task and each pixel's input is its own.
  const float* input = g.from.f32() + g.from.rows() * endTile / cut.tiles * g.from.ld;
  const int64_t inputFloats = cut.groups == 1 && taps == 1 ? cut.chunkTiles * kTileRows * g.from.ld : 0;
  for (int p = int(panels * group / cut.groups); p < int(panels * (group + 1) / cut.groups); ++p) {
    const int first = p * kPanel, width = panelWidth(g.to.c, first), valid = minOf(width, g.to.c - first);
    const int64_t tiles = endTile - firstTile, floats = int64_t(g.filterRows) * g.filterColumns * g.from.c * width;
    if (taps > 0 && tiles > 1 && tiles <= kFewTiles && floats > kFewFloats) {
      runFewTiles(g, chunk, int(tiles), first, pixels);
      continue;
    }
    const float* panel = g.packed + int64_t(first) * g.filterRows * g.filterColumns * g.from.c;
    const int64_t lines = width / kLine, piece = int64_t(first) * g.from.c;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t slot = t * kTileRows;
      const float* const* source = chunk.source + slot * taps;
      int64_t ahead = kAhead;
      // One line a step: the first tiles fetch the next panel, those after them a piece of the next chunk's input.
      if (tiles > kFewTiles && floats <= kNextFloats) {
        if (t < lines)
          ahead = floats + t * kLine;
        else if (t < 2 * lines && piece < inputFloats)
          ahead = distance(panel, input + piece + (t - lines) * kLine);
      }
      withRows(pixels(t), [&]<int M>() {
        if (width == kPanel)
          tile<M, kTileVectors>(g, source, chunk.pixel + slot, chunk.sample + slot, first, valid, ahead);
        else
          tile<M, 1>(g, source, chunk.pixel + slot, chunk.sample + slot, first, valid, ahead);
      });
    }
  }
}

size_t zeroBytes(const Gemm& g) { return roundUp<size_t>(size_t(g.from.c) * sizeof(float), kCacheLine); }

size_t scratchOf(const CpuDevice& device, const Gemm& g) {
  return zeroBytes(g) + device.pool.threads() * ChunkLayout(g, cutOf(g, device.pool.threads())).bytes;
}

void runGemm(CpuDevice& device, const Gemm& g, void* scratch) {
  if (g.pixels() == 0) return;
  const Cut cut = cutOf(g, device.pool.threads());
  float* zeros = static_cast<float*>(scratch);
  for (int32_t c = 0; c < g.from.c; ++c) zeros[c] = 0;
  char* memory = static_cast<char*>(scratch) + zeroBytes(g);
  const size_t bytes = ChunkLayout(g, cut).bytes;
  device.pool.parallelFor(cut.chunks * cut.groups,
                          [&](int64_t task, int thread) { runTask(g, cut, task, zeros, memory + thread * bytes); });
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
          static_cast<const float*>(op.packed),
          op.w.h,
          op.w.w};
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
          static_cast<const float*>(op.packed),
          op.w.h,
          op.w.w};
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
