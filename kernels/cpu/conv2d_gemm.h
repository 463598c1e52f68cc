// What the direct convolutions share (conv2d.cpp of float32, conv2d_bf16.cpp): which weights and inputs an output pixel
// is a sum of, and how the work is cut. Steps of the depth and elements of panels are units of 4 bytes: a float, or two
// numbers of bf16.
#pragma once
#include "kernels/cpu/panels.h"
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

// The tile that work is cut for.
struct Tile {
  int rows;           // output pixels
  int panel, narrow;  // channels of a panel, and of one that needs no more
  int step;           // a depth is cut at multiples of it
  int ownPixels;      // that weights are packed for: packing one takes as long as products with several

  int width(int channels, int first) const { return channels - first <= narrow ? narrow : panel; }
  // Units of all packed weights, [panel][tap][depth][width].
  int64_t packed(int channels, int64_t taps, int64_t depth) const {
    const int full = channels / panel, rest = channels % panel;
    return taps * depth * (int64_t(full) * panel + (rest == 0 ? 0 : width(rest, 0)));
  }
};

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
inline Axis forwardAxis(int32_t out, int32_t in, int32_t filter, const ConvShape& shape, int32_t pad) {
  return {out, 0, 1, filter, 0, 1, in * shape.upsample, shape.stride, -pad, 1, shape.upsample - 1};
}

// Gradient of the input: dx_h gets dy[(h + pad - r) / stride] for those r that divide. They are the same for all h of
// one phase (h + pad) mod stride, with r = phase, phase + stride, ..., so each phase is a convolution of stride 1 of
// its own.
inline Axis dgradAxis(int32_t in, int32_t out, int32_t filter, int32_t stride, int32_t pad, int32_t phase) {
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
  const void* kept;  // packed filters

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
  Tile tile;
  int32_t depth;       // of a tap, in units
  int64_t chunks;      // pieces of the pixels
  int32_t groups;      // pieces of the panels
  int64_t tiles;       // of tile.rows pixels or less, all together
  int64_t chunkTiles;  // the most in a chunk
  Packing packing;
};

// A sum over `depth` units at each tap.
inline Cut cutOf(const Gemm& g, const Tile& tile, int32_t depth, int threads) {
  // A chunk's input (its own pixels; halos come on top) and one panel of weights stay in the L2 cache.
  constexpr int64_t kChunkBytes = 96 << 10, kMinChunkTiles = 4, kMaxChunkTiles = 64;
  constexpr int64_t kOneChunk = 8;           // tiles that are not worth reading all weights once more
  constexpr int64_t kSharedUnits = 1 << 20;  // that stay in the L3 cache
  constexpr int64_t kSmall = 256 << 10;      // multiply-adds that are not worth waking a thread for
  Cut cut = {.tile = tile, .depth = depth};
  cut.tiles = ceilDiv<int64_t>(g.pixels(), tile.rows);
  const int64_t ownTiles = ceilDiv(tile.ownPixels, tile.rows);
  const bool shares = cut.tiles > ownTiles && tile.packed(g.to.c, g.filters.taps(), depth) <= kSharedUnits;
  cut.packing = g.kept ? Packing::kept : shares ? Packing::shared : Packing::own;
  const int64_t pixelBytes = 4 * int64_t(depth) * g.rows.sourceStep * g.columns.sourceStep;
  const int64_t most = minOf(maxOf(kChunkBytes / (pixelBytes * tile.rows), kMinChunkTiles), kMaxChunkTiles);
  const int32_t panels = ceilDiv(g.to.c, tile.panel);
  const int64_t work = g.pixels() * g.to.c * maxOf(g.taps(), 1) * depth;
  const int64_t tasks = threads == 1 || work < kSmall ? 1 : 8 * int64_t(threads);
  // Where there are few panels, chunks are what threads share.
  const int64_t least = minOf(ceilDiv<int64_t>(tasks, panels), cut.tiles / kMinChunkTiles);
  const int64_t chunks = cut.packing == Packing::own ? cut.tiles / ownTiles : ceilDiv(cut.tiles, most);
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
constexpr int kPartUnits = 6144;

struct Parts {
  int32_t taps, depth;
  int32_t partTaps, pieces, pieceDepth, count;

  Parts(const Gemm& g, const Cut& cut) : taps(g.taps()), depth(cut.depth) {
    const int steps = kPartUnits / cut.tile.panel;
    const bool whole = cut.packing == Packing::shared || (cut.packing == Packing::kept && cut.chunkTiles > kFewTiles);
    partTaps = whole ? maxOf(taps, 1) : maxOf(steps / depth, 1);
    pieces = whole ? 1 : ceilDiv(depth, steps);
    pieceDepth = roundUp(ceilDiv(depth, pieces), cut.tile.step);
    count = maxOf(ceilDiv(taps, partTaps) * pieces, 1);
  }
  Part part(int i) const {
    const int32_t tap = i / pieces * partTaps, c = i % pieces * pieceDepth;
    return {tap, minOf(tap + partTaps, taps), minOf(c, depth), minOf(c + pieceDepth, depth)};
  }
  // Units of a packed part, to a channel.
  size_t units() const { return size_t(minOf(partTaps, taps)) * minOf(pieceDepth, depth); }
};

// What a thread needs to know of the output pixels of a task, in tiles of tile.rows.
struct Chunk {
  const float** source;  // [tile][tap][tile.rows]
  int64_t* pixel;        // [tile][tile.rows], index in the destination
  int32_t* sample;       // [tile][tile.rows]
  float* sums;           // [tile][tile.rows][panel], where there is more than one part
  float* panel;          // the packed part, where it is the task's own
};

// Memory of a thread, in the order of Chunk.
struct ChunkLayout {
  size_t source, pixel, sample, sums, bytes;

  ChunkLayout(const Gemm& g, const Cut& cut) {
    const size_t rows = size_t(cut.chunkTiles) * cut.tile.rows;
    const Parts parts(g, cut);
    source = roundUp<size_t>(rows * g.taps() * sizeof(float*), kCacheLine);
    pixel = roundUp<size_t>(rows * sizeof(int64_t), kCacheLine);
    sample = roundUp<size_t>(rows * sizeof(int32_t), kCacheLine);
    sums = parts.count > 1 ? rows * cut.tile.panel * sizeof(float) : 0;
    bytes = source + pixel + sample + sums;
    if (cut.packing == Packing::own)
      bytes += roundUp<size_t>(parts.units() * cut.tile.panel * sizeof(float), kCacheLine);
  }

  Chunk chunk(char* memory) const {
    char* const at = memory + source + pixel + sample;
    return {reinterpret_cast<const float**>(memory), reinterpret_cast<int64_t*>(memory + source),
            reinterpret_cast<int32_t*>(memory + source + pixel), reinterpret_cast<float*>(at),
            reinterpret_cast<float*>(at + sums)};
  }
};

constexpr int kLine = kCacheLine / 4;

// First of the pixels of tile t: tiles are of equal size, or differ by one pixel.
inline int64_t tileBegin(const Gemm& g, const Cut& cut, int64_t t) { return g.pixels() * t / cut.tiles; }

// Pixels of `from`, of 4-byte elements; padding reads `zeros`.
inline void describe(const Gemm& g, const Tensor& from, const Cut& cut, int64_t firstTile, int64_t endTile,
                     const float* zeros, Chunk& chunk) {
  const int tileRows = cut.tile.rows;
  const Axis &rows = g.rows, &columns = g.columns;
  const int32_t taps = g.taps();
  const int64_t first = tileBegin(g, cut, firstTile);
  int32_t j = int32_t(first % columns.count), i = int32_t(first / columns.count % rows.count);
  int32_t n = int32_t(first / columns.count / rows.count);
  for (int64_t t = firstTile; t < endTile; ++t) {
    const int64_t slot = (t - firstTile) * tileRows;
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
        const float* line = from.f32() + (int64_t(n) * from.h + (h >> rows.halve)) * from.w * from.ld;
        for (int s = 0, ws = w; s < columns.taps; ++s, ws += columns.sourceTapStep, source += tileRows)
          *source =
              inside && uint32_t(ws) < uint32_t(columns.source) ? line + int64_t(ws >> columns.halve) * from.ld : zeros;
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

// to = sumOf(row, vector) + bias + sampleBias + residual, of `rows` pixels from `slot` on and `valid` channels from
// `first` on.
template <class Sum>
DDPM_INLINE void finish(const Gemm& g, const Chunk& chunk, int64_t slot, int rows, int vectors, int first, int valid,
                        const Sum& sumOf) {
  const int64_t* const pixel = chunk.pixel + slot;
  const int32_t* const sample = chunk.sample + slot;
  for (int v = 0; v < vectors; ++v) {
    const int c = first + v * kWidth, n = minOf(valid - v * kWidth, kWidth);
    if (n <= 0) break;
    const auto get = [&](const float* p) { return n == kWidth ? load(p) : loadPart(p, n); };
    const vf bias = g.bias ? get(g.bias.f32() + c) : zero();
    for (int m = 0; m < rows; ++m) {
      vf y = sumOf(m, v) + bias;
      if (g.sampleBias) y = y + get(g.sampleBias.f32() + int64_t(sample[m]) * g.sampleBias.ld + c);
      if (g.residual) y = y + get(g.residual.f32() + pixel[m] * g.residual.ld + c);
      float* to = g.to.f32() + pixel[m] * g.to.ld + c;
      n == kWidth ? store(to, y) : storePart(to, y, n);
    }
  }
}

// Asks for the memory that `finish` will read and write.
DDPM_INLINE void fetchOutput(const Gemm& g, const Chunk& chunk, int64_t slot, int rows, int width, int first) {
  const int64_t* const pixel = chunk.pixel + slot;
  for (int m = 0; m < rows; ++m)
    for (int i = 0; i < width; i += kLine) __builtin_prefetch(g.to.f32() + pixel[m] * g.to.ld + first + i, 1);
  if (g.residual)
    for (int m = 0; m < rows; ++m)
      for (int i = 0; i < width; i += kLine)
        __builtin_prefetch(g.residual.f32() + pixel[m] * g.residual.ld + first + i);
}

inline Gemm gemmOf(const Conv2d& op) {
  const ConvShape& s = op.shape;
  return {forwardAxis(op.y.h, op.x.h, op.w.h, s, s.padTop),
          forwardAxis(op.y.w, op.x.w, op.w.w, s, s.padLeft),
          op.x,
          op.y,
          op.bias,
          op.sampleBias,
          op.residual,
          {op.w, op.scale, ConvPass::forward},
          op.packed};
}

inline Gemm gemmOf(const Conv2dDgrad& op, int32_t phaseRow, int32_t phaseColumn) {
  const ConvShape& s = op.shape;
  return {dgradAxis(op.dx.h, op.dy.h, op.w.h, s.stride, s.padTop, phaseRow),
          dgradAxis(op.dx.w, op.dy.w, op.w.w, s.stride, s.padLeft, phaseColumn),
          op.dy,
          op.dx,
          {},
          {},
          op.residual,
          {op.w, op.scale, ConvPass::dgrad},
          op.packed};
}

}  // namespace ddpm::cpu::DDPM_ISA
