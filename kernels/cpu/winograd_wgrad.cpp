// Winograd's gradient of the weights: dW += Gᵀ [ sum over tiles Z ⊙ V ] G with Z = A dY Aᵀ and V = Bᵀ d B, a matrix
// product {K, tiles} x {tiles, C} for each point.
//
// In turn, for each block of tiles: all threads transform its inputs and output gradients to V and Z
// [point][panel][tile] [kPanel]; then a task owns a rectangle of (k, c), sums it over the block's tiles in registers,
// for all points, and adds Gᵀ...G of that to dW. So the sums over the points never stand in memory as a whole (they are
// four times the weights), and the order of every sum is fixed by the shape alone.
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_transform.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

struct Cut {
  int64_t blocks, blockTiles;         // pieces of the tiles, and the most in a block
  int32_t inputPanels, outputPanels;  // of C, of K
  int64_t vPoint, zPoint;  // floats from one point to the next; a cache line more than needed, lest all points of
                           // a tile compete for the same cache sets
  int32_t inputGroups, outputGroups;  // pieces of the panels
};

// A task's sums for one pair of panels: [point][k][c], again with a cache line between the points.
constexpr int kSumPoint = kPanel * kPanel + kCacheLine / 4;

template <class F>
Cut cutOf(const Conv2dWgrad& op, int threads) {
  constexpr int64_t kMinTiles = 16, kMaxTiles = 128;  // V of one panel stays in the L2 cache
  constexpr int64_t kBlockBytes = 8 << 20;            // of V and Z; they are shared by the threads, in the L3 cache
  Cut cut;
  const Tiles<F> tiles(op.dy);
  cut.inputPanels = ceilDiv(op.x.c, kPanel);
  cut.outputPanels = ceilDiv(op.dy.c, kPanel);
  const int64_t tileBytes = kPanel * 4 * (int64_t(F::kIn * F::kIn) * cut.inputPanels + F::kPoints * cut.outputPanels);
  const int64_t most = minOf(maxOf(kBlockBytes / tileBytes, kMinTiles), kMaxTiles);
  cut.blocks = maxOf<int64_t>(ceilDiv(tiles.count, most), 1);
  cut.blockTiles = ceilDiv(tiles.count, cut.blocks);
  cut.vPoint = cut.blockTiles * cut.inputPanels * kPanel + kCacheLine / 4;
  cut.zPoint = cut.blockTiles * cut.outputPanels * kPanel + kCacheLine / 4;
  const int32_t tasks = threads == 1 ? 1 : 4 * threads;
  cut.inputGroups = minOf(cut.inputPanels, tasks);
  cut.outputGroups = minOf(cut.outputPanels, ceilDiv(tasks, cut.inputGroups));
  return cut;
}

template <class F>
struct Memory {
  float *zeros, *v, *z, *sums;  // sums: one array a thread
  size_t bytes;

  Memory(const Conv2dWgrad& op, const Cut& cut, int threads, void* scratch) {
    ScratchCutter cutter(scratch);
    zeros = cutter.take<float>(roundUp(maxOf(op.x.c, op.dy.c), kWidth));
    v = cutter.take<float>(F::kIn * F::kIn * cut.vPoint);
    z = cutter.take<float>(F::kPoints * cut.zPoint);
    sums = cutter.take<float>(int64_t(threads) * F::kPoints * kSumPoint);
    bytes = cutter.bytes();
  }
};

// A dY Aᵀ of one tile, to at(k)[point * pointStride].
template <class F, class At>
void transformGradient(const Tensor& dy, const Corner& corner, const float* zeros, int64_t pointStride, const At& at) {
  const float* source[F::kOut][F::kOut];
  findPixels(dy, corner, zeros, source);
  forChannels(dy.c, [&](int64_t k, auto part) DDPM_LAMBDA_INLINE {
    vf columns[F::kOut][F::kSide];
    for (int j = 0; j < F::kOut; ++j) {
      vf y[F::kOut];
      for (int i = 0; i < F::kOut; ++i) {
        y[i] = part.load(source[i][j] + k);
        __builtin_prefetch(source[i][j] + k + kTransformAhead);
      }
      F::outputAdjoint(y, columns[j]);
    }
    float* z = at(k);
    for (int i = 0; i < F::kSide; ++i) {
      vf y[F::kOut], r[F::kSide];
      for (int j = 0; j < F::kOut; ++j) y[j] = columns[j][i];
      F::outputAdjoint(y, r);
      for (int j = 0; j < F::kSide; ++j) store(z + (i * F::kSide + j) * pointStride, r[j]);
    }
  });
}

// sums[k][..] = sum over the tiles z[tile][k] * v[tile][..]; meanwhile `ahead` floats a step are fetched from `next`
// on.
template <int M, int V>
void multiply(const float* z, const float* v, int64_t tiles, float* sums, const float* next, int64_t ahead) {
  vf acc[M][V];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < V; ++j) acc[i][j] = zero();
#pragma GCC unroll 4
  for (int64_t t = 0; t < tiles; ++t) {
    __builtin_prefetch(next);
    next += ahead;
    vf column[V];
    for (int j = 0; j < V; ++j) column[j] = load(v + t * kPanel + j * kWidth);
    for (int i = 0; i < M; ++i) {
      const vf x = broadcast(z[t * kPanel + i]);
      for (int j = 0; j < V; ++j) acc[i][j] = x * column[j] + acc[i][j];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < V; ++j) store(sums + i * kPanel + j * kWidth, acc[i][j]);
}

// dW[k][r][s][..] += Gᵀ sums G for the channels [first, first + count) of one output channel k.
template <class F>
void addToWeights(const float* sums, const Tensor& dW, int k, int first, int count) {
  float* to = dW.f32() + int64_t(k) * 9 * dW.c + first;
  forChannels(count, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
    vf columns[F::kSide][3];
    for (int j = 0; j < F::kSide; ++j) {
      vf u[F::kSide];
      for (int i = 0; i < F::kSide; ++i) u[i] = load(sums + (i * F::kSide + j) * kSumPoint + c);
      F::weightAdjoint(u, columns[j]);
    }
    for (int r = 0; r < 3; ++r) {
      vf u[F::kSide], g[3];
      for (int j = 0; j < F::kSide; ++j) u[j] = columns[j][r];
      F::weightAdjoint(u, g);
      for (int s = 0; s < 3; ++s) {
        float* p = to + (3 * r + s) * int64_t(dW.c) + c;
        part.store(p, part.load(p) + g[s]);
      }
    }
  });
}

// The gradient of the bias is the sum over dY's pixels, which is what A dY Aᵀ has at the point (1, 1).
void addToBias(const float* z, int64_t tiles, float* dBias, int count) {
  forChannels(count, [&](int64_t k, auto part) DDPM_LAMBDA_INLINE {
    vf sum = zero();
    for (int64_t t = 0; t < tiles; ++t) sum = sum + load(z + t * kPanel + k);
    part.store(dBias + k, part.load(dBias + k) + sum);
  });
}

template <class F>
void transformTile(const Conv2dWgrad& op, const Cut& cut, const Memory<F>& memory, int64_t tile, int64_t slot,
                   int64_t count) {
  const Tiles<F> tiles(op.dy);
  const auto place = [&](float* base) {
    return [=](int64_t c) { return base + (c / kPanel * count + slot) * kPanel + c % kPanel; };
  };
  transformInput<F>(op.x, inputCorner(tiles, tile, op.shape), memory.zeros, cut.vPoint, place(memory.v));
  const Corner corner = {tiles.sample(tile), tiles.row(tile), tiles.column(tile)};
  transformGradient<F>(op.dy, corner, memory.zeros, cut.zPoint, place(memory.z));
}

template <class F>
void multiplyTask(const Conv2dWgrad& op, const Cut& cut, const Memory<F>& memory, int64_t count, int64_t task,
                  float* sums) {
  const int64_t inputGroup = task / cut.outputGroups, outputGroup = task % cut.outputGroups;
  const int firstInput = int(cut.inputPanels * inputGroup / cut.inputGroups);
  const int endInput = int(cut.inputPanels * (inputGroup + 1) / cut.inputGroups);
  const int firstOutput = int(cut.outputPanels * outputGroup / cut.outputGroups);
  const int endOutput = int(cut.outputPanels * (outputGroup + 1) / cut.outputGroups);
  constexpr int64_t kLine = kCacheLine / sizeof(float);
  for (int p = firstInput; p < endInput; ++p) {
    const int c = p * kPanel;
    const float* v = memory.v + p * count * kPanel;
    const bool whole = panelWidth(op.x.c, c) == kPanel;
    for (int q = firstOutput; q < endOutput; ++q) {
      const int k = q * kPanel, rows = minOf(kPanel, op.dy.c - k), rowTiles = ceilDiv(rows, kTileRows);
      const float* z = memory.z + q * count * kPanel;
      if (op.dBias && p == 0) addToBias(z + (F::kSide + 1) * cut.zPoint, count, op.dBias.f32() + k, rows);
      for (int point = 0; point < F::kPoints; ++point) {
        // What addToWeights will want.
        for (int row = rows * point / F::kPoints; row < rows * (point + 1) / F::kPoints; ++row)
          for (int tap = 0; tap < 9; ++tap)
            __builtin_prefetch(op.dWeight.f32() + (int64_t(k + row) * 9 + tap) * op.dWeight.c + c, 1);
        for (int r = 0; r < rowTiles; ++r) {
          const int row = rows * r / rowTiles, end = rows * (r + 1) / rowTiles;
          const float *a = z + point * cut.zPoint, *b = v + inputPoint<F>(point) * cut.vPoint;
          // A line a step of the next point's Z, then of its V.
          const int64_t fetched = r * count * kLine, panel = count * kPanel;
          const int nextPoint = minOf(point + 1, F::kPoints - 1);
          const float* next = fetched < panel       ? z + nextPoint * cut.zPoint + fetched
                              : fetched < 2 * panel ? v + inputPoint<F>(nextPoint) * cut.vPoint + fetched - panel
                                                    : b;
          const int64_t ahead = fetched < 2 * panel ? kLine : 0;
          float* to = sums + point * kSumPoint + row * kPanel;
          withRows(end - row, [&]<int M>() {
            whole ? multiply<M, kTileVectors>(a + row, b, count, to, next, ahead)
                  : multiply<M, 1>(a + row, b, count, to, next, ahead);
          });
        }
      }
      for (int row = 0; row < rows; ++row)
        addToWeights<F>(sums + row * kPanel, op.dWeight, k + row, c, minOf(kPanel, op.x.c - c));
    }
  }
}

template <class F>
size_t scratchOf(const CpuDevice& device, const Conv2dWgrad& op) {
  const int threads = device.pool.threads();
  return Memory<F>(op, cutOf<F>(op, threads), threads, nullptr).bytes;
}

template <class F>
void runOp(CpuDevice& device, const Conv2dWgrad& op, void* scratch) {
  const int threads = device.pool.threads();
  const Cut cut = cutOf<F>(op, threads);
  const Memory<F> memory(op, cut, threads, scratch);
  const Tiles<F> tiles(op.dy);
  for (int32_t c = 0; c < roundUp(maxOf(op.x.c, op.dy.c), kWidth); ++c) memory.zeros[c] = 0;
  for (int64_t block = 0; block < cut.blocks; ++block) {
    const int64_t first = tiles.count * block / cut.blocks, count = tiles.count * (block + 1) / cut.blocks - first;
    device.pool.parallelRange(count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) transformTile(op, cut, memory, first + slot, slot, count);
    });
    device.pool.parallelFor(int64_t(cut.inputGroups) * cut.outputGroups, [&](int64_t task, int thread) {
      multiplyTask(op, cut, memory, count, task, memory.sums + int64_t(thread) * F::kPoints * kSumPoint);
    });
  }
}

}  // namespace

size_t winogradScratch(const CpuDevice& device, const Conv2dWgrad& op) {
  return withAlgorithm(op.algo, [&]<class F>() { return scratchOf<F>(device, op); });
}

void runWinograd(CpuDevice& device, const Conv2dWgrad& op, void* scratch) {
  withAlgorithm(op.algo, [&]<class F>() { runOp<F>(device, op, scratch); });
}

}  // namespace ddpm::cpu::DDPM_ISA
