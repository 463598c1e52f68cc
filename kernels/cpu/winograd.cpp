// Winograd convolution, forward and gradient of the input.
//
// A task is a block of tiles x a group of panels of output channels, and goes through all three steps on its own: it
// transforms the input of its tiles to V [unit][point][tile][c], multiplies it, point by point, with the transformed
// filters U [point][panel][c][kPanel] to M [point][tile][k], and transforms that to the output. V and M stay in the
// thread's own memory. Each sum over c is one chain of FMAs, whatever the block: the result depends neither on the
// batch nor on the number of threads.
//
// U is up to four times the weights. Kept, or where many blocks need it and all threads transform the filters first, it
// streams through the caches, once a block, fetched ahead. Where it is large, or few blocks need it, a task transforms
// filters itself, so many of one panel at a time as stay in the L2 cache (panels.h, Packing).
#include "kernels/cpu/winograd.h"

#include "kernels/cpu/winograd_transform.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

struct Job {
  Tensor from, to;
  Tensor bias, sampleBias, residual;
  Filters filters;
  const float* kept;  // U
  ConvShape shape;
};

Job jobOf(const Conv2d& op) {
  return {op.x,
          op.y,
          op.bias,
          op.sampleBias,
          op.residual,
          {op.w, op.scale, ConvPass::forward},
          static_cast<const float*>(op.packed),
          op.shape};
}

// dx_h = sum_r w_r dy_{h + pad - r}; with the filter turned, r' = 2 - r, it is a convolution of padding 2 - pad.
Job jobOf(const Conv2dDgrad& op) {
  return {op.dy,
          op.dx,
          {},
          {},
          op.residual,
          {op.w, op.scale, ConvPass::dgrad},
          static_cast<const float*>(op.packed),
          {1, 2 - op.shape.padTop, 2 - op.shape.padLeft}};
}

// How the work is cut into tasks. No result depends on it.
struct Cut {
  int64_t blocks;          // pieces of the tiles
  int32_t groups, panels;  // pieces of the panels
  int64_t blockTiles;      // the most in a block
  int32_t depth;           // floats of a tile in V
  Packing packing;
  // What of U is multiplied at a time: so many panels and steps of the depth. All of a group's, or of one panel so many
  // as stay in the L2 cache.
  int32_t unitPanels, unitDepth;
  // Floats from one point to the next; a cache line more than needed, lest all points of a tile compete for the same
  // cache sets.
  int64_t vPoint, mPoint, uPoint;

  int32_t units() const { return ceilDiv(depth, unitDepth); }
  int32_t unitChannels() const { return unitPanels * kPanel; }
};

// Floats of U from one point to the next, of all filters.
int64_t filterPoint(const Filters& f) { return packedFloats(f.channels(), 1, f.depth()) + kCacheLine / 4; }

template <class F>
Cut cutOf(const Job& g, int threads) {
  constexpr int64_t kMinTiles = 16, kMaxTiles = 96;
  constexpr int64_t kMostShared = 8 << 20;   // floats
  constexpr int32_t kUnitFloats = 80 << 10;  // of U, in the L2 cache
  const Tiles<F> tiles(g.to);
  Cut cut;
  cut.panels = ceilDiv(g.to.c, kPanel);
  cut.depth = roundUp(g.from.c, kWidth);
  cut.uPoint = filterPoint(g.filters);
  const bool shares = tiles.count > kMaxTiles && F::kPoints * cut.uPoint <= kMostShared;
  cut.packing = g.kept ? Packing::kept : shares ? Packing::shared : Packing::own;
  const bool isOwn = cut.packing == Packing::own;
  // A multiply-add costs 1 / tiles of reading U and 1 / depth + 1 / channels of writing and reading V and M, so larger
  // layers want larger blocks (measured; of 128 -> 128 channels, 24 tiles, or 18 with AVX-512).
  constexpr double kTilesPerChannel = kWidth == 16 ? 0.07 : 0.094;
  const int64_t most =
      isOwn ? kMaxTiles : minOf(maxOf(int64_t(kTilesPerChannel * (cut.depth + g.to.c)), kMinTiles), kMaxTiles);
  cut.blocks = maxOf<int64_t>(ceilDiv(tiles.count, most), 1);
  // An even share for every thread. Where there are too few blocks for that, cutting the channels costs less than
  // cutting the blocks: it transforms the input again, but no filter.
  cut.groups = 1;
  if (cut.blocks >= threads)
    cut.blocks = cut.blocks / threads * threads;
  else
    cut.groups = int32_t(minOf<int64_t>(cut.panels, ceilDiv<int64_t>(threads, cut.blocks)));
  cut.blockTiles = ceilDiv(tiles.count, cut.blocks);
  cut.unitPanels = isOwn ? 1 : ceilDiv(cut.panels, cut.groups);
  cut.unitDepth = cut.depth;
  if (isOwn) {
    const int32_t pieces = ceilDiv(g.from.c, kUnitFloats / (F::kPoints * kPanel));
    cut.unitDepth = roundUp(ceilDiv(g.from.c, pieces), kWidth);
    cut.uPoint = int64_t(cut.unitDepth) * kPanel + kCacheLine / 4;
  }
  cut.vPoint = cut.blockTiles * cut.unitDepth + kCacheLine / 4;
  cut.mPoint = cut.blockTiles * cut.unitChannels() + kCacheLine / 4;
  return cut;
}

int64_t zeroFloats(const Cut& cut) { return roundUp(cut.depth, kCacheLine / 4); }
template <class F>
int64_t filterFloats(const Cut& cut, Packing packing) {
  return cut.packing == packing ? roundUp<int64_t>(F::kPoints * cut.uPoint, kCacheLine / 4) : 0;
}
template <class F>
int64_t threadFloats(const Cut& cut) {
  const int64_t own = cut.units() * F::kIn * F::kIn * cut.vPoint + F::kPoints * cut.mPoint;
  return roundUp<int64_t>(own, kCacheLine / 4) + filterFloats<F>(cut, Packing::own);
}

// m[row][..] (+)= sum_c v[row][c] * u[c][..]; meanwhile `ahead` floats a step are fetched from `next` on, and of v what
// follows these rows: into L1, since more loads can be under way to it than to L2 (measured).
template <int M, int V>
void multiply(const float* v, int64_t vStride, const float* u, int depth, bool isFirst, float* m, int64_t mStride,
              const float* next, int64_t ahead) {
  vf acc[M][V];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) acc[i][j] = zero();
  if (!isFirst) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) acc[i][j] = load(m + i * mStride + j * kWidth);
  }
  const float* following = v + M * vStride;
#pragma GCC unroll 4
  for (int c = 0; c < depth; ++c) {
    __builtin_prefetch(next);
    next += ahead;
    __builtin_prefetch(following + c * M);
    vf column[V];
    for (int j = 0; j < V; ++j) column[j] = load(u + j * kWidth);
    for (int i = 0; i < M; ++i) {
      const vf x = broadcast(v[i * vStride + c]);
      for (int j = 0; j < V; ++j) acc[i][j] = x * column[j] + acc[i][j];
    }
    u += V * kWidth;
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < V; ++j) store(m + i * mStride + j * kWidth, acc[i][j]);
}

// Aᵀ m A of one tile, channels [first, first + count) of the output. Meanwhile the pixels of the tile after it are
// asked for: stores wait for one another, so that each that has to wait for memory holds up all of them.
template <class F>
void transformOutput(const Job& g, const Tiles<F>& tiles, int64_t t, const float* m, int64_t mPoint, int first,
                     int count) {
  const int32_t n = tiles.sample(t), h = tiles.row(t), w = tiles.column(t);
  const int rows = minOf(g.to.h - h, F::kOut), columns = minOf(g.to.w - w, F::kOut);
  const int64_t corner = tiles.corner(g.to, t), next = tiles.corner(g.to, t + 1) - corner;
  forChannels(count, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
    vf half[F::kSide][F::kOut];
    for (int j = 0; j < F::kSide; ++j) {
      vf column[F::kSide];
      for (int i = 0; i < F::kSide; ++i) {
        const float* from = m + (i * F::kSide + j) * mPoint + c;
        column[i] = load(from);
        __builtin_prefetch(from + kTransformAhead);
      }
      F::output(column, half[j]);
    }
    const int64_t k = first + c;
    const vf bias = g.bias ? part.load(g.bias.f32() + k) : zero();
    const vf sampleBias = g.sampleBias ? part.load(g.sampleBias.f32() + int64_t(n) * g.sampleBias.ld + k) : zero();
    for (int i = 0; i < F::kOut; ++i) {
      if (i >= rows) break;
      vf row[F::kSide], y[F::kOut];
      for (int j = 0; j < F::kSide; ++j) row[j] = half[j][i];
      F::output(row, y);
      const int64_t pixel = corner + int64_t(i) * g.to.w;
      for (int j = 0; j < F::kOut; ++j) {
        if (j >= columns) break;
        vf value = y[j] + bias + sampleBias;
        if (g.residual) {
          const float* residual = g.residual.f32() + (pixel + j) * g.residual.ld + k;
          __builtin_prefetch(residual + next * g.residual.ld);
          value = value + part.load(residual);
        }
        float* to = g.to.f32() + (pixel + j) * g.to.ld + k;
        __builtin_prefetch(to + next * g.to.ld, 1);
        part.store(to, value);
      }
    }
  });
}

// The panels [firstPanel, endPanel) of the group and the steps [begin, end) of the depth, of all points, whose filters
// are at u.
template <class F>
void multiplyUnit(const Job& g, const Cut& cut, int64_t tiles, int firstPanel, int endPanel, int begin, int end,
                  const float* v, const float* u, float* m) {
  const int rowTiles = int(ceilDiv<int64_t>(tiles, kTileRows)), depth = end - begin;
  const int64_t ahead = ceilDiv(kPanel, rowTiles);
  for (int point = 0; point < F::kPoints; ++point, u += cut.uPoint) {
    const float* from = v + inputPoint<F>(point) * cut.vPoint;
    float* to = m + point * cut.mPoint;
    for (int p = firstPanel; p < endPanel; ++p) {
      const int64_t channel = int64_t(p - firstPanel) * kPanel;
      const float* panel = u + channel * depth;
      const bool whole = panelWidth(g.to.c, p * kPanel) == kPanel;
      // The next panel is read while this one is multiplied, an equal part by each row of register tiles.
      const float* next =
          p + 1 < endPanel ? panel + int64_t(kPanel) * depth : u + (point + 1 < F::kPoints) * cut.uPoint;
      for (int r = 0; r < rowTiles; ++r) {
        const int64_t row = tiles * r / rowTiles, rowEnd = tiles * (r + 1) / rowTiles;
        const float* a = from + row * cut.unitDepth;
        const float* fetch = next + r * ahead * depth;
        float* out = to + row * cut.unitChannels() + channel;
        withRows(int(rowEnd - row), [&]<int M>() {
          if (whole)
            multiply<M, kTileVectors>(a, cut.unitDepth, panel, depth, begin == 0, out, cut.unitChannels(), fetch,
                                      ahead);
          else
            multiply<M, 1>(a, cut.unitDepth, panel, depth, begin == 0, out, cut.unitChannels(), fetch, ahead);
        });
      }
    }
  }
}

template <class F>
void runTask(const Job& g, const Cut& cut, int64_t task, const float* zeros, const float* filters, float* memory) {
  const Tiles<F> tiles(g.to);
  const int64_t block = task / cut.groups, group = task % cut.groups;
  const int64_t firstTile = tiles.count * block / cut.blocks, endTile = tiles.count * (block + 1) / cut.blocks;
  const int firstPanel = int(cut.panels * group / cut.groups), endPanel = int(cut.panels * (group + 1) / cut.groups);
  const int64_t vUnit = F::kIn * F::kIn * cut.vPoint;
  float *const v = memory, *const m = v + cut.units() * vUnit;
  float* const own = memory + threadFloats<F>(cut) - filterFloats<F>(cut, Packing::own);

  for (int64_t t = firstTile; t < endTile; ++t)
    transformInput<F>(g.from, inputCorner(tiles, t, g.shape), zeros, cut.vPoint, [&](int64_t c) {
      return v + c / cut.unitDepth * vUnit + (t - firstTile) * cut.unitDepth + c % cut.unitDepth;
    });

  for (int p = firstPanel; p < endPanel; p += cut.unitPanels) {
    const int first = p * kPanel, last = minOf(p + cut.unitPanels, endPanel);
    for (int begin = 0; begin < g.from.c; begin += cut.unitDepth) {
      const int end = minOf(begin + cut.unitDepth, g.from.c);
      if (!filters) {
        const bool isLast = end == g.from.c;
        const int64_t ahead = g.filters.distance(isLast ? kPanel : 0, isLast ? -begin : end - begin);
        transformFilters<F>(g.filters, first, begin, end, own, cut.uPoint, ahead);
      }
      const float* u = filters ? filters + int64_t(first) * g.from.c : own;
      multiplyUnit<F>(g, cut, endTile - firstTile, p, last, begin, end, v + begin / cut.unitDepth * vUnit, u, m);
    }
    for (int64_t t = firstTile; t < endTile; ++t)
      transformOutput<F>(g, tiles, t, m + (t - firstTile) * cut.unitChannels(), cut.mPoint, first,
                         minOf(last * kPanel, g.to.c) - first);
  }
}

template <class F>
void packFilters(CpuDevice& device, const Filters& f, float* to) {
  constexpr int kGrain = 32;  // of the depth in a task
  const int pieces = ceilDiv(f.depth(), kGrain), panels = ceilDiv(f.channels(), kPanel);
  device.pool.parallelFor(int64_t(panels) * pieces, [&](int64_t task, int) {
    const int first = int(task / pieces) * kPanel, begin = int(task % pieces) * kGrain;
    float* const panel = to + int64_t(first) * f.depth() + int64_t(begin) * panelWidth(f.channels(), first);
    transformFilters<F>(f, first, begin, minOf(begin + kGrain, f.depth()), panel, filterPoint(f),
                        f.distance(0, kGrain));
  });
}

template <class F>
size_t scratchOf(const CpuDevice& device, const Job& g) {
  const Cut cut = cutOf<F>(g, device.pool.threads());
  const int64_t shared = filterFloats<F>(cut, Packing::shared);
  return sizeof(float) * size_t(zeroFloats(cut) + shared + device.pool.threads() * threadFloats<F>(cut));
}

template <class F>
void runJob(CpuDevice& device, const Job& g, void* scratch) {
  const Cut cut = cutOf<F>(g, device.pool.threads());
  float *const zeros = static_cast<float*>(scratch), *const shared = zeros + zeroFloats(cut);
  float* const memory = shared + filterFloats<F>(cut, Packing::shared);
  for (int64_t c = 0; c < zeroFloats(cut); ++c) zeros[c] = 0;
  if (cut.packing == Packing::shared) packFilters<F>(device, g.filters, shared);
  const float* const filters = g.kept ? g.kept : cut.packing == Packing::shared ? shared : nullptr;
  device.pool.parallelFor(cut.blocks * cut.groups, [&](int64_t task, int thread) {
    runTask<F>(g, cut, task, zeros, filters, memory + thread * threadFloats<F>(cut));
  });
}

}  // namespace

size_t winogradFloats(ConvAlgo algo, const Filters& f) {
  return withAlgorithm(algo, [&]<class F>() { return size_t(F::kPoints * filterPoint(f)); });
}
void packWinograd(CpuDevice& device, ConvAlgo algo, const Filters& f, float* to) {
  withAlgorithm(algo, [&]<class F>() { packFilters<F>(device, f, to); });
}

size_t winogradScratch(const CpuDevice& device, const Conv2d& op) {
  return withAlgorithm(op.algo, [&]<class F>() { return scratchOf<F>(device, jobOf(op)); });
}
void runWinograd(CpuDevice& device, const Conv2d& op, void* scratch) {
  withAlgorithm(op.algo, [&]<class F>() { runJob<F>(device, jobOf(op), scratch); });
}
size_t winogradScratch(const CpuDevice& device, const Conv2dDgrad& op) {
  return withAlgorithm(op.algo, [&]<class F>() { return scratchOf<F>(device, jobOf(op)); });
}
void runWinograd(CpuDevice& device, const Conv2dDgrad& op, void* scratch) {
  withAlgorithm(op.algo, [&]<class F>() { runJob<F>(device, jobOf(op), scratch); });
}

}  // namespace ddpm::cpu::DDPM_ISA
