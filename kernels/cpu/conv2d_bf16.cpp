// Direct convolution of operands that are rounded to bf16: the indirect GEMM of conv2d.cpp with pairs in place of
// floats, and the products of the implementation that the process has (bf16/kernel.h).
//
// The input is rounded once: where each task has the input of its pixels to itself, by the task, in its core's cache;
// else all of it before, by all threads.
#include "kernels/cpu/conv2d_bf16.h"

#include "kernels/cpu/bf16/kernel.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kAhead = 256;  // as in conv2d.cpp
constexpr int64_t kNextUnits = 16 << 10;
constexpr int64_t kPackAhead = 128;  // elements of a row of weights

Tile tileOf(const bf16::Kernel& kernel) {
  return {kernel.rows, bf16::kColumns, bf16::kNarrow, maxOf(kernel.step, 16), 640};
}

// A product of the backend's ops, in units of pairs.
struct Work {
  const Gemm& g;
  const bf16::Kernel& kernel;
  Cut cut;
  bool ownRows;  // tasks round their input themselves

  Work(const CpuDevice& device, const Gemm& gemm)
      : g(gemm),
        kernel(*device.bf16),
        cut(cutOf(gemm, tileOf(kernel), int32_t(kernel.pairsOf(gemm.from.c)), device.pool.threads())),
        ownRows(gemm.taps() == 1 && cut.groups == 1) {}

  int64_t pairs() const { return cut.depth; }
  int64_t panelAt(int first) const { return int64_t(first) * g.filters.taps() * pairs(); }
};

// Memory of the op, and of each thread.
struct Layout {
  size_t zeros, rounded, shared, chunk, tile, rows;
  int threads;

  Layout(const Work& w, int threads) : threads(threads) {
    const auto lines = [](int64_t units) { return roundUp<size_t>(size_t(units) * 4, kCacheLine); };
    const Cut& cut = w.cut;
    zeros = lines(maxOf<int64_t>(w.g.from.c, w.pairs()));
    rounded = w.ownRows ? 0 : lines(w.g.from.rows() * w.pairs());
    shared = cut.packing == Packing::shared ? lines(cut.tile.packed(w.g.to.c, w.g.filters.taps(), w.pairs())) : 0;
    chunk = ChunkLayout(w.g, cut).bytes;
    tile = lines(int64_t(cut.tile.rows) * bf16::kColumns);
    rows = w.ownRows ? lines(cut.chunkTiles * cut.tile.rows * w.pairs()) : 0;
  }
  size_t thread() const { return chunk + tile + rows; }
  size_t bytes() const { return zeros + rounded + shared + threads * thread(); }
};

bf16::Matrix filterOf(const Filters& f, int tap, int first, int64_t c) {
  const int64_t row = int64_t(f.taps()) * f.w.c;
  const int64_t firstRow = f.forward() ? first : c, column = f.forward() ? c : first;
  const int64_t at = firstRow * row + int64_t(tap) * f.w.c + column;
  return {static_cast<const char*>(f.w.data) + at * int64_t(sizeOf(f.w.dtype)), f.w.dtype, row,
          f.scale ? f.scale.f32() + firstRow : nullptr};
}

// Pairs [begin, end) of a tap's weights.
void packTap(const bf16::Kernel& kernel, const Filters& f, int tap, int first, int width, int64_t begin, int64_t end,
             uint32_t* to, int64_t ahead) {
  const int64_t left = maxOf<int64_t>(f.depth() - 2 * begin, 0);
  kernel.pack(filterOf(f, tap, first, 2 * begin), !f.forward(), minOf(width, f.channels() - first),
              minOf(left, 2 * (end - begin)), end - begin, width, to, ahead);
}

// Packs a part of the panel whose channels start at `first`, and asks for the part after it.
void packPart(const Work& w, const Parts& parts, int i, int first, uint32_t* to) {
  const Gemm& g = w.g;
  const Part part = parts.part(i), next = parts.part(i + 1 < parts.count ? i + 1 : 0);
  const int width = w.cut.tile.width(g.to.c, first);
  int64_t ahead = g.filters.distance(i + 1 < parts.count ? 0 : bf16::kColumns, 2 * (next.c - part.c));
  if (parts.taps > 0) ahead += int64_t(g.filterTap(next.tap) - g.filterTap(part.tap)) * g.filters.w.c;
  for (int t = part.tap; t < part.endTap; ++t, to += (part.endC - part.c) * width)
    packTap(w.kernel, g.filters, g.filterTap(t), first, width, part.c, part.endC, to, ahead);
}

// Rounds the input of a chunk's pixels, and has the chunk read that.
void roundChunk(const Work& w, int64_t tiles, int64_t firstTile, uint32_t* rows, Chunk& chunk) {
  for (int64_t t = 0; t < tiles; ++t) {
    const int count = int(tileBegin(w.g, w.cut, firstTile + t + 1) - tileBegin(w.g, w.cut, firstTile + t));
    const float** source = chunk.source + t * w.cut.tile.rows;
    for (int r = 0; r < count; ++r, rows += w.pairs()) {
      w.kernel.round(source[r], w.g.from.c, 1.0f, w.pairs(), rows);
      source[r] = reinterpret_cast<const float*>(rows);
    }
  }
}

// `panels`: all packed weights, or null where the task packs its own; `input`: pairs, or floats where it rounds them.
void runTask(const Work& w, const Tensor& input, const Layout& layout, int64_t task, const float* zeros,
             const uint32_t* panels, char* memory) {
  const Gemm& g = w.g;
  const Cut& cut = w.cut;
  const int32_t taps = g.taps(), count = ceilDiv(g.to.c, bf16::kColumns);
  const int64_t c = task / cut.groups, group = task % cut.groups;
  const int64_t firstTile = cut.tiles * c / cut.chunks, endTile = cut.tiles * (c + 1) / cut.chunks;
  Chunk chunk = ChunkLayout(g, cut).chunk(memory);
  float* const own = reinterpret_cast<float*>(memory + layout.chunk);
  describe(g, input, cut, firstTile, endTile, zeros, chunk);
  if (w.ownRows)
    roundChunk(w, endTile - firstTile, firstTile, reinterpret_cast<uint32_t*>(memory + layout.chunk + layout.tile),
               chunk);
  const Parts parts(g, cut);
  uint32_t* const packed = reinterpret_cast<uint32_t*>(chunk.panel);
  for (int p = int(count * group / cut.groups); p < int(count * (group + 1) / cut.groups); ++p) {
    const int first = p * bf16::kColumns, width = cut.tile.width(g.to.c, first), valid = minOf(width, g.to.c - first);
    const int64_t lines = width / kLine;
    for (int i = 0; i < parts.count; ++i) {
      const Part part = parts.part(i);
      if (!panels) packPart(w, parts, i, first, packed);
      const int64_t steps = part.endC - part.c, units = int64_t(part.endTap - part.tap) * steps * width;
      for (int64_t t = 0; t < endTile - firstTile; ++t) {
        const int64_t slot = t * cut.tile.rows;
        const int rows = int(tileBegin(g, cut, firstTile + t + 1) - tileBegin(g, cut, firstTile + t));
        float* const sums = parts.count > 1 ? chunk.sums + slot * bf16::kColumns : own;
        const bool isLast = i + 1 == parts.count;
        if (isLast) fetchOutput(g, chunk, slot, rows, width, first);
        // The first tiles fetch the next panel.
        const int64_t ahead = panels && units <= kNextUnits && t < lines ? units + t * kLine : kAhead;
        bool adds = i > 0;
        const uint32_t* panel = packed;
        for (int tap = part.tap; tap < part.endTap; ++tap, panel += steps * width, adds = true) {
          if (panels) panel = panels + w.panelAt(first) + (int64_t(g.filterTap(tap)) * w.pairs() + part.c) * width;
          const float** const source = chunk.source + slot * taps + int64_t(tap) * cut.tile.rows;
          const uint32_t* row[bf16::kMaxRows];
          for (int r = 0; r < rows; ++r) row[r] = reinterpret_cast<const uint32_t*>(source[r]) + part.c;
          w.kernel.multiply({row, rows, panel, width, steps, adds, sums, ahead});
        }
        if (taps == 0)
          for (int j = 0; j < rows * bf16::kColumns; ++j) sums[j] = 0.0f;
        if (isLast)
          finish(g, chunk, slot, rows, width / kWidth, first, valid,
                 [&](int m, int v) DDPM_LAMBDA_INLINE { return load(sums + m * bf16::kColumns + v * kWidth); });
      }
    }
  }
}

// All of the input, as pairs.
Tensor roundInput(CpuDevice& device, const Work& w, uint32_t* to) {
  constexpr int64_t kGrain = 16384;
  const Tensor& x = w.g.from;
  const int64_t pairs = w.pairs();
  device.pool.parallelRange(x.rows(), maxOf<int64_t>(kGrain / x.c, 1), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      w.kernel.round(x.f32() + row * x.ld, x.c, 1.0f, pairs, to + row * pairs);
  });
  Tensor rounded = x;
  rounded.data = to;
  rounded.c = rounded.ld = int32_t(pairs);
  return rounded;
}

}  // namespace

int64_t bf16PanelBytes(const CpuDevice& device, const Filters& f) {
  return 4 * tileOf(*device.bf16).packed(f.channels(), f.taps(), device.bf16->pairsOf(f.depth()));
}

void packBf16(CpuDevice& device, const Filters& f, uint32_t* to) {
  const bf16::Kernel& kernel = *device.bf16;
  const Tile tile = tileOf(kernel);
  const int64_t taps = f.taps(), pairs = kernel.pairsOf(f.depth());
  device.pool.parallelFor(ceilDiv(f.channels(), tile.panel) * taps, [&](int64_t task, int) {
    const int first = int(task / taps) * tile.panel, tap = int(task % taps), width = tile.width(f.channels(), first);
    packTap(kernel, f, tap, first, width, 0, pairs, to + int64_t(first) * taps * pairs + int64_t(tap) * width * pairs,
            kPackAhead);
  });
}

size_t bf16Scratch(const CpuDevice& device, const Gemm& g) {
  return Layout(Work(device, g), device.pool.threads()).bytes();
}

void runBf16(CpuDevice& device, const Gemm& g, void* scratch) {
  const Work w(device, g);
  const Layout layout(w, device.pool.threads());
  char* at = static_cast<char*>(scratch);
  const auto take = [&](size_t bytes) {
    char* const memory = at;
    at += bytes;
    return memory;
  };
  float* const zeros = reinterpret_cast<float*>(take(layout.zeros));
  for (size_t i = 0; i < layout.zeros / sizeof(float); ++i) zeros[i] = 0.0f;
  uint32_t* const rounded = reinterpret_cast<uint32_t*>(take(layout.rounded));
  const Tensor input = w.ownRows ? g.from : roundInput(device, w, rounded);
  uint32_t* const shared = reinterpret_cast<uint32_t*>(take(layout.shared));
  if (w.cut.packing == Packing::shared) packBf16(device, g.filters, shared);
  const uint32_t* const panels = w.cut.packing == Packing::kept     ? static_cast<const uint32_t*>(g.kept)
                                 : w.cut.packing == Packing::shared ? shared
                                                                    : nullptr;
  device.pool.parallelFor(w.cut.chunks * w.cut.groups, [&](int64_t task, int thread) {
    runTask(w, input, layout, task, zeros, panels, at + size_t(thread) * layout.thread());
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
