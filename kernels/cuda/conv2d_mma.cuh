// What the convolutions on tensor cores share: tiles of 16-bit numbers in shared memory, and the product of two of
// them.
//
// A block of four warps computes a tile of the result. Its loop goes through the sum in steps of 32; cp.async keeps
// kStages - 1 steps ahead of the one in use. A warp multiplies 16 x 16 x 16 blocks, which ldmatrix brings from shared
// memory in the order that mma wants; the sums stay in registers, in f32, and are added up in the order of the sum
// whatever the tile is.
#pragma once
#include "kernels/cuda/conv2d.cuh"

namespace ddpm::cuda {

constexpr int kMmaThreads = 128;
constexpr int kMmaStep = 32;  // of the sum, a stage
constexpr int kMmaStages = 4;

// A matrix of 16-bit numbers in shared memory, row after row, in vectors of 8. The vectors of a row are permuted so
// that one column of vectors of eight rows, which is what ldmatrix reads at once, meets no bank twice.
template <int Columns>
struct MmaTile {
  static constexpr int kVectors = Columns / 8;  // of a row
  // First of the four words of a vector.
  __device__ static int word(int row, int vector) {
    constexpr int kRowsPerLine = kVectors < 8 ? 8 / kVectors : 1;  // rows in 128 bytes, that is in all banks
    constexpr int kMask = (kVectors < 8 ? kVectors : 8) - 1;
    return (row * kVectors + (vector ^ (row / kRowsPerLine & kMask))) * 4;
  }
};

// A 16 x 16 block from (row, column) on, as mma's a where its rows are those of the result (not transposed, down first)
// or the sum's (transposed, across first); as two of mma's b, eight columns of the result each, where its rows are
// those columns (not transposed, across first) or the sum's (transposed, down first).
template <int Columns, bool transposed, bool acrossFirst>
__device__ __forceinline__ Vec<uint32_t, 4> loadBlock(const Shared<uint32_t>& tile, int row, int column) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
  const int down = acrossFirst ? matrix / 2 : matrix % 2, across = acrossFirst ? matrix % 2 : matrix / 2;
  return loadMatrices<transposed>(tile, MmaTile<Columns>::word(row + 8 * down + lane % 8, column / 8 + across));
}

// BM x BN of a result by WarpsM x WarpsN warps. At least `BlocksPerProcessor` are meant to share a multiprocessor.
template <int BM_, int BN_, int WarpsM_, int WarpsN_, int BlocksPerProcessor_>
struct MmaShape {
  static constexpr int BM = BM_, BN = BN_, kWarpsM = WarpsM_, kWarpsN = WarpsN_;
  static constexpr int kBlocksPerProcessor = BlocksPerProcessor_;
  static constexpr int WM = BM / kWarpsM, WN = BN / kWarpsN;  // of a warp
  static constexpr int kDown = WM / 16, kAcross = WN / 16;
  static_assert(kWarpsM * kWarpsN * 32 == kMmaThreads && WM % 16 == 0 && WN % 16 == 0);

  static constexpr int kWordsA = BM * kMmaStep / 2, kWordsB = BN * kMmaStep / 2, kStageWords = kWordsA + kWordsB;
  // The results of a warp are handed around 16 rows at a time; with this pitch its lanes write to all banks.
  static constexpr int kPitch = WN + 8, kResultWords = kMmaThreads / 32 * 16 * kPitch;
  static constexpr int kSharedWords = kMmaStages * kStageWords > kResultWords ? kMmaStages* kStageWords : kResultWords;

  __device__ static int warpRow() { return threadIdx.x / 32 / kWarpsN * WM; }
  __device__ static int warpColumn() { return threadIdx.x / 32 % kWarpsN * WN; }
};

// The sums of a lane: of block (i, j), mma's d for its left and its right half.
template <class Shape>
struct MmaSums {
  Vec<float, 4> v[Shape::kDown][2 * Shape::kAcross];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Shape::kDown; ++i)
#pragma unroll
      for (int j = 0; j < 2 * Shape::kAcross; ++j) v[i][j] = {{0, 0, 0, 0}};
  }

  template <class Format>
  __device__ void add(const Vec<uint32_t, 4> (&a)[Shape::kDown], const Vec<uint32_t, 4> (&b)[Shape::kAcross]) {
#pragma unroll
    for (int i = 0; i < Shape::kDown; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kAcross; ++j) {
        multiplyAdd<Format>(v[i][2 * j], a[i], {{b[j].v[0], b[j].v[1]}});
        multiplyAdd<Format>(v[i][2 * j + 1], a[i], {{b[j].v[2], b[j].v[3]}});
      }
  }

  // Writes the warp's sums: row i of the block's tile to row rowOf(i) of the result, where that is not negative, its
  // columns to channels k0 and on, of which those below `channels` exist. The shared memory must be free.
  template <class RowOf>
  __device__ __forceinline__ void write(const Epilogue& epilogue, int k0, int channels, const RowOf& rowOf) const {
    constexpr int kLanesPerRow = Shape::WN / 8, kRowsAtOnce = 32 / kLanesPerRow, kPasses = 16 / kRowsAtOnce;
    const int lane = threadIdx.x % 32, column = lane % kLanesPerRow * 8;
    const int k = k0 + Shape::warpColumn() + column;
    const Shared<float> mine =
        dynamicShared<float>(0, Shape::kResultWords) + int(threadIdx.x / 32) * 16 * Shape::kPitch;
#pragma unroll 1  // what follows is long; once is enough of it
    for (int i = 0; i < Shape::kDown; ++i) {
      int64_t rows[kPasses];
      Vec<float, 8> added[kPasses];
#pragma unroll
      for (int pass = 0; pass < kPasses;
           ++pass) {  // all reads before the first write, so that they are under way at once
        rows[pass] = k < channels ? rowOf(Shape::warpRow() + 16 * i + pass * kRowsAtOnce + lane / kLanesPerRow) : -1;
        if (epilogue.eights && rows[pass] >= 0) added[pass] = epilogue.added<8>(rows[pass], k);
      }
#pragma unroll
      for (int block = 0; block < Shape::kDown; ++block)  // registers have no index
        if (block == i) putBlocks(mine, v[block]);
      __syncwarp();
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (rows[pass] < 0) continue;
        const int from = (pass * kRowsAtOnce + lane / kLanesPerRow) * Shape::kPitch + column;
        if (epilogue.eights) {
          Epilogue::add(added[pass], load<8>(mine, from));
          store<8>(epilogue.y, rows[pass], k, added[pass]);
        } else {
#pragma unroll 1
          for (int e = 0; e < min(8, channels - k); ++e) epilogue.write(rows[pass], k + e, load<1>(mine, from + e));
        }
      }
      __syncwarp();
    }
  }

 private:
  __device__ static void putBlocks(const Shared<float>& to, const Vec<float, 4> (&blocks)[2 * Shape::kAcross]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < 2 * Shape::kAcross; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store(to, (g + 8 * half) * Shape::kPitch + 8 * j + 2 * t,
              Vec<float, 2>{{blocks[j].v[2 * half], blocks[j].v[2 * half + 1]}});
  }
};

// The loop of a block over stages [first, last): load(t, stage) puts stage t into shared memory from word `stage` on,
// multiply(stage) uses it.
template <class Shape, class Load, class Multiply>
__device__ __forceinline__ void pipeline(int first, int last, const Load& load, const Multiply& multiply) {
  const auto loadStage = [&](int t) {
    if (t < last) load(t, t % kMmaStages * Shape::kStageWords);
    cpAsyncCommit();  // of nothing at the end, so that the count of groups stays that of the stages
  };
#pragma unroll 1
  for (int t = first; t < first + kMmaStages - 1; ++t) loadStage(t);
#pragma unroll 1
  for (int t = first; t < last; ++t) {
    cpAsyncWait<kMmaStages - 2>();
    __syncthreads();  // stage t has arrived for all, and all are done with the one that is loaded next
    loadStage(t + kMmaStages - 1);
    multiply(t % kMmaStages * Shape::kStageWords);
  }
  cpAsyncWait<0>();
  __syncthreads();  // the shared memory is free
}

inline bool inVectors(const Tensor& t) { return uintptr_t(t.data) % 16 == 0 && t.c % 8 == 0 && t.ld % 8 == 0; }

inline Global<const uint16_t> narrow(const Tensor& t) {
  const int64_t size = t.rows() ? (t.rows() - 1) * t.ld + t.c : 0;
  return Global<const uint16_t>(static_cast<const uint16_t*>(t.data), size);
}

}  // namespace ddpm::cuda
