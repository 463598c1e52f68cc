// Gradient of a convolution's weights: dW {K, R*S*C} += dYᵀ {K, pixels} * im2col(X) {pixels, R*S*C}, a GEMM whose long
// side is the sum. A task owns a rectangle of dW and walks over all pixels in blocks: it packs its rows of dY for the
// block (L2), then panel by panel the columns of im2col(X) (L1; packing makes the strided pixels contiguous), and adds
// the block's sum, kept in registers, to dW. The order of every sum is fixed by the shape alone. Columns run over (r,
// s, c), so a panel may span taps: layers of few channels fill their vectors too.
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/winograd.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kBlock = 256;    // pixels; a panel of X is then 16 KiB, half of a usual L1 cache
constexpr int kAhead = 16;     // pixels; how far ahead X is asked for
constexpr int kMaxRows = 192;  // of dY in a task; its packed block is then 192 KiB, well inside a usual L2 cache

struct Cut {
  int32_t rowGroups, panelGroups;
  int32_t columns, panels;  // R*S*C, in panels of kPanel
  int32_t groupTiles;       // tiles of kTileRows in the largest row group
};

Cut cutOf(const Conv2dWgrad& op, int threads) {
  Cut cut;
  cut.columns = op.dWeight.h * op.dWeight.w * op.dWeight.c;
  cut.panels = ceilDiv(cut.columns, kPanel);
  cut.rowGroups = ceilDiv(op.dy.c, kMaxRows);
  // Every task packs all its rows of dY, which must be worth it.
  constexpr int32_t kTaskColumns = 256;
  const int32_t most = threads == 1 ? 1 : 4 * threads;
  const int32_t tasks = maxOf(minOf(most, cut.rowGroups * cut.columns / kTaskColumns), int32_t(threads));
  cut.panelGroups = minOf(cut.panels, ceilDiv(tasks, cut.rowGroups));
  // Few columns: cut the rows further.
  if (cut.panelGroups * cut.rowGroups < tasks)
    cut.rowGroups = maxOf(minOf(ceilDiv(tasks, cut.panelGroups), op.dy.c / (2 * kTileRows)), cut.rowGroups);
  cut.groupTiles = ceilDiv(ceilDiv(op.dy.c, cut.rowGroups), kTileRows);
  return cut;
}

// Floats from one tile of packed dY to the next; the last pixel's store may run over by a vector.
constexpr int kTileFloats = kBlock * kTileRows + kPanel;

size_t threadFloats(const Cut& cut) { return size_t(kBlock) * kPanel + size_t(cut.groupTiles) * kTileFloats; }

// Rows [first, end) of dY in `tiles` tiles of about equal size, at most kTileRows.
int tileBegin(int first, int end, int tiles, int t) { return first + (end - first) * t / tiles; }

// to[tile][pixel][row of the tile] = dy[pixel][row]
void packRows(const Conv2dWgrad& op, int64_t pixel, int count, int first, int end, int tiles, float* to) {
  constexpr int kPixels = 16;  // at a time: their rows are read once, in order, and stay in the L1 cache for all tiles
  for (int i0 = 0; i0 < count; i0 += kPixels) {
    const int i1 = minOf(count, i0 + kPixels);
    for (int t = 0; t < tiles; ++t) {
      const int begin = tileBegin(first, end, tiles, t), m = tileBegin(first, end, tiles, t + 1) - begin;
      const bool whole = begin + roundUp(kTileRows, kWidth) <= op.dy.c;
      const float* from = op.dy.f32() + (pixel + i0) * op.dy.ld + begin;
      float* out = to + t * kTileFloats + i0 * m;
      for (int i = i0; i < i1; ++i, from += op.dy.ld, out += m) {
        // Whole vectors; the next pixel overwrites what is too much.
        for (int v = 0; v < m; v += kWidth) {
          const int n = op.dy.c - begin - v;
          __builtin_prefetch(from + kPixels * op.dy.ld + v);
          store(out + v, whole || n >= kWidth ? load(from + v) : loadPart(from + v, n));
        }
      }
    }
  }
}

// dBias[row] += sum over the block, for a group's rows.
void addBias(const Conv2dWgrad& op, int64_t pixel, int count, int first, int end) {
  for (int c = first; c < end; c += kWidth) {
    const int n = minOf(end - c, kWidth);
    const float* from = op.dy.f32() + pixel * op.dy.ld + c;
    vf sum = zero();
    if (n == kWidth)
      for (int i = 0; i < count; ++i, from += op.dy.ld) sum = sum + load(from);
    else
      for (int i = 0; i < count; ++i, from += op.dy.ld) sum = sum + loadPart(from, n);
    float* to = op.dBias.f32() + c;
    storePart(to, loadPart(to, n) + sum, n);
  }
}

// Channels [c, c + length) of tap (r, s) for the block's pixels: to[pixel * width] = x[...], 0 in the padding.
template <class CopyRow, class ClearRow>
DDPM_INLINE void eachPixel(const Conv2dWgrad& op, int64_t pixel, int count, int r, int s, int c, const CopyRow& copyRow,
                           const ClearRow& clearRow) {
  const int stride = op.shape.stride, columns = op.dy.w, halve = op.shape.upsample - 1;
  const int32_t rowsOfX = op.x.h << halve, columnsOfX = op.x.w << halve;
  int q = int(pixel % columns), p = int(pixel / columns % op.dy.h);
  int64_t n = pixel / columns / op.dy.h;
  for (int i = 0; i < count;) {
    const int end = minOf(columns, q + count - i);  // of this row of pixels
    const int h = p * stride - op.shape.padTop + r;
    if (uint32_t(h) >= uint32_t(rowsOfX)) {
      for (; q < end; ++q, ++i) clearRow(i);
    } else {
      const float* line = op.x.f32() + (n * op.x.h + (h >> halve)) * op.x.w * op.x.ld + c;
      for (; q < end; ++q, ++i) {
        const int w = q * stride - op.shape.padLeft + s;
        if (uint32_t(w) < uint32_t(columnsOfX))
          copyRow(i, line + int64_t(w >> halve) * op.x.ld);
        else
          clearRow(i);
      }
    }
    q = 0;
    if (++p == op.dy.h) {
      p = 0;
      ++n;
    }
  }
}

// to[pixel][width]: columns [first, first + width) of im2col(X), 0 beyond the last.
void packPanel(const Conv2dWgrad& op, int64_t pixel, int count, int first, int columns, int width, float* to) {
  const int channels = op.dWeight.c;
  for (int j = 0; j < width;) {
    const int tap = (first + j) / channels, c = (first + j) % channels;
    const int r = tap / op.dWeight.w, s = tap % op.dWeight.w;
    float* out = to + j;
    if (first + j >= columns) {
      for (int i = 0; i < count; ++i)
        for (int k = j; k < width; ++k) to[i * width + k] = 0;
      return;
    }
    const int length = minOf(width - j, channels - c);
    if (length == kPanel) {
      eachPixel(
          op, pixel, count, r, s, c,
          [&](int i, const float* from) {
            __builtin_prefetch(from + kAhead * op.x.ld);
            for (int v = 0; v < kTileVectors; ++v) store(out + i * kPanel + v * kWidth, load(from + v * kWidth));
          },
          [&](int i) {
            for (int v = 0; v < kTileVectors; ++v) store(out + i * kPanel + v * kWidth, zero());
          });
    } else {
      eachPixel(
          op, pixel, count, r, s, c,
          [&](int i, const float* from) {
            for (int k = 0; k < length; ++k) out[i * width + k] = from[k];
          },
          [&](int i) {
            for (int k = 0; k < length; ++k) out[i * width + k] = 0;
          });
    }
    j += length;
  }
}

// dW[m][..] += sum over pixels a[pixel][m] * b[pixel][..], `valid` columns.
template <int M, int V>
void tile(const float* a, const float* b, int count, float* dW, int64_t rowStride, int valid) {
  for (int m = 0; m < M; ++m) __builtin_prefetch(dW + m * rowStride, 1);
  vf acc[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
#pragma GCC unroll 4
  for (int i = 0; i < count; ++i) {
    vf column[V];
    for (int v = 0; v < V; ++v) column[v] = load(b + (i * V + v) * kWidth);
    for (int m = 0; m < M; ++m) {
      const vf x = broadcast(a[i * M + m]);
      for (int v = 0; v < V; ++v) acc[m][v] = x * column[v] + acc[m][v];
    }
  }
  for (int m = 0; m < M; ++m, dW += rowStride) {
    for (int v = 0; v < V; ++v) {
      const int n = minOf(valid - v * kWidth, kWidth);
      float* to = dW + v * kWidth;
      if (n == kWidth)
        store(to, load(to) + acc[m][v]);
      else if (n > 0)
        storePart(to, loadPart(to, n) + acc[m][v], n);
    }
  }
}

void runTask(const Conv2dWgrad& op, const Cut& cut, int64_t task, float* memory) {
  const int rowGroup = int(task / cut.panelGroups), panelGroup = int(task % cut.panelGroups);
  const int first = int(int64_t(op.dy.c) * rowGroup / cut.rowGroups);
  const int end = int(int64_t(op.dy.c) * (rowGroup + 1) / cut.rowGroups);
  const int firstPanel = int(int64_t(cut.panels) * panelGroup / cut.panelGroups);
  const int endPanel = int(int64_t(cut.panels) * (panelGroup + 1) / cut.panelGroups);
  const int tiles = ceilDiv(end - first, kTileRows);
  float *panel = memory, *rows = memory + kBlock * kPanel;
  const int64_t pixels = op.dy.rows();
  for (int64_t pixel = 0; pixel < pixels; pixel += kBlock) {
    const int count = int(minOf<int64_t>(pixels - pixel, kBlock));
    packRows(op, pixel, count, first, end, tiles, rows);
    if (op.dBias && panelGroup == 0) addBias(op, pixel, count, first, end);
    for (int p = firstPanel; p < endPanel; ++p) {
      const int column = p * kPanel, width = panelWidth(cut.columns, column);
      packPanel(op, pixel, count, column, cut.columns, width, panel);
      for (int t = 0; t < tiles; ++t) {
        const int row = tileBegin(first, end, tiles, t);
        float* dW = op.dWeight.f32() + int64_t(row) * cut.columns + column;
        const float* a = rows + int64_t(t) * kTileFloats;
        withRows(tileBegin(first, end, tiles, t + 1) - row, [&]<int M>() {
          if (width == kPanel)
            tile<M, kTileVectors>(a, panel, count, dW, cut.columns, minOf(cut.columns - column, width));
          else
            tile<M, 1>(a, panel, count, dW, cut.columns, minOf(cut.columns - column, width));
        });
      }
    }
  }
}

}  // namespace

size_t scratch(const CpuDevice& device, const Conv2dWgrad& op) {
  if (isWinograd(op.algo)) return winogradScratch(device, op);
  return device.pool.threads() * threadFloats(cutOf(op, device.pool.threads())) * sizeof(float);
}

void run(CpuDevice& device, const Conv2dWgrad& op, void* scratch) {
  if (isWinograd(op.algo)) return runWinograd(device, op, scratch);
  const Cut cut = cutOf(op, device.pool.threads());
  float* memory = static_cast<float*>(scratch);
  device.pool.parallelFor(int64_t(cut.rowGroups) * cut.panelGroups, [&](int64_t task, int thread) {
    runTask(op, cut, task, memory + thread * threadFloats(cut));
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
