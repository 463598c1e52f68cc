// The gradient of a convolution's weights on tensor cores, operands in 16 bits; see conv2d_gather.cuh and
// conv2d_mma.cuh.
//
// dw[k, j] += sum_m dy[m, k] a[m, j]: both operands stand in shared memory by pixels m, which the sum goes over, and
// ldmatrix transposes them. The pixels are split among blocks; each writes its part to scratch memory, and a second
// kernel adds the parts up in order. dBias is one more column of the product, a[m, .] = 1, which the blocks of the
// first columns compute.
#include "kernels/cuda/conv2d_mma.cuh"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

struct WeightProduct {
  Gather gather;
  Global<const uint16_t> x, dy;
  int dyLd;
  Epilogue epilogue;        // of rows k and channels j; part i of row k is its row i * K + k
  Global<float> biasParts;  // [split][K]; absent without dBias
  int K;
  int stepsPerSplit;  // in units of kMmaStep pixels
  Pixel advance;      // rows of x that a thread loads
};

// Rows of pixels, columns of a result's rows or channels: a thread's vector of 8 in every kRowsAtOnce-th row.
template <int Columns>
struct PixelLoader {
  static constexpr int kVectors = MmaTile<Columns>::kVectors;
  static constexpr int kRowsAtOnce = kMmaThreads / kVectors < kMmaStep ? kMmaThreads / kVectors : kMmaStep;
  static constexpr int kLoads = kMmaStep / kRowsAtOnce;
  int row, vector, m;
  __device__ explicit PixelLoader(int first)
      : row(threadIdx.x / kVectors), vector(threadIdx.x % kVectors), m(first * kMmaStep + row) {}
  __device__ bool idle() const { return kRowsAtOnce == kMmaStep && row >= kMmaStep; }
  __device__ int word(int i) const { return MmaTile<Columns>::word(row + i * kRowsAtOnce, vector); }
};

template <int Columns, bool vectors>
struct OutputLoader : PixelLoader<Columns> {
  using Base = PixelLoader<Columns>;
  int k;

  __device__ OutputLoader(const WeightProduct&, int k0, int first) : Base(first), k(k0 + this->vector * 8) {}

  __device__ void load(const WeightProduct& p, const Shared<uint32_t>& tile) {
    if (this->idle()) return;
#pragma unroll
    for (int i = 0; i < Base::kLoads; ++i) {
      const bool inside = this->m < p.gather.pixels && k < p.K;
      const int64_t at = int64_t(this->m) * p.dyLd + k;
      if constexpr (vectors) {
        cpAsync<16>(tile, this->word(i), p.dy, at, inside);
      } else {
        Vec<uint32_t, 4> words = {};
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (inside && k + e < p.K) words.v[e / 2] |= uint32_t(p.dy[at + e]) << e % 2 * 16;
        store(tile, this->word(i), words);
      }
      this->m += Base::kRowsAtOnce;
    }
  }
};

template <int Columns, bool vectors>
struct InputLoader : PixelLoader<Columns> {
  using Base = PixelLoader<Columns>;
  Step step;  // of the first of the eight columns
  Pixel pixel;

  __device__ InputLoader(const WeightProduct& p, int j0, int first)
      : Base(first), step(Step::at(j0 + this->vector * 8, p.gather)), pixel(Pixel::at(this->m, p.gather)) {}

  __device__ void load(const WeightProduct& p, const Shared<uint32_t>& tile) {
    if (this->idle()) return;
#pragma unroll
    for (int i = 0; i < Base::kLoads; ++i) {
      const bool exists = this->m < p.gather.pixels;
      const Seen seen = Seen::at(pixel.n, pixel.p, pixel.q, p.gather);
      if constexpr (vectors) {
        cpAsync<16>(tile, this->word(i), p.x, seen.index + step.offset(p.gather),
                    exists && step.inside(p.gather) && seen.inside(step, p.gather));
      } else {
        Vec<uint32_t, 4> words = {};
        Step at = step;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (exists && at.inside(p.gather) && seen.inside(at, p.gather))
            words.v[e / 2] |= uint32_t(p.x[seen.index + at.offset(p.gather)]) << e % 2 * 16;
          at.next(p.gather);
        }
        store(tile, this->word(i), words);
      }
      this->m += Base::kRowsAtOnce;
      pixel.advance(p.advance, p.gather);
    }
  }
};

template <class Shape, class Format, bool dyVectors, bool xVectors>
__global__ void __launch_bounds__(kMmaThreads, Shape::kBlocksPerProcessor) convWeightKernel(WeightProduct p) {
  constexpr uint32_t kOnes = std::is_same_v<Format, Half> ? 0x3C003C00 : 0x3F803F80;
  const Shared<uint32_t> shared = dynamicShared<uint32_t>(0, Shape::kSharedWords);
  const int k0 = blockIdx.y * Shape::BM, j0 = blockIdx.x * Shape::BN;
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (p.gather.pixels + kMmaStep - 1) / kMmaStep);
  const bool sumsBias = p.biasParts && blockIdx.x == 0 && Shape::warpColumn() == 0;

  OutputLoader<Shape::BM, dyVectors> dy(p, k0, first);
  InputLoader<Shape::BN, xVectors> x(p, j0, first);
  MmaSums<Shape> sums;
  sums.clear();
  Vec<float, 4> bias[Shape::kDown] = {};

  pipeline<Shape>(
      first, last,
      [&](int, int stage) {
        dy.load(p, shared + stage);
        x.load(p, shared + (stage + Shape::kWordsA));
      },
      [&](int stage) {
        const Shared<uint32_t> left = shared + stage, right = shared + (stage + Shape::kWordsA);
#pragma unroll
        for (int s = 0; s < kMmaStep; s += 16) {
          Vec<uint32_t, 4> a[Shape::kDown], b[Shape::kAcross];
#pragma unroll
          for (int i = 0; i < Shape::kDown; ++i)
            a[i] = loadBlock<Shape::BM, true, true>(left, s, Shape::warpRow() + 16 * i);
#pragma unroll
          for (int j = 0; j < Shape::kAcross; ++j)
            b[j] = loadBlock<Shape::BN, true, false>(right, s, Shape::warpColumn() + 16 * j);
          sums.template add<Format>(a, b);
          if (sumsBias)
#pragma unroll
            for (int i = 0; i < Shape::kDown; ++i) multiplyAdd<Format>(bias[i], a[i], {{kOnes, kOnes}});
        }
      });

  if (sumsBias && threadIdx.x % 4 == 0)
#pragma unroll
    for (int i = 0; i < 2 * Shape::kDown; ++i) {
      const int k = k0 + Shape::warpRow() + 8 * i + threadIdx.x % 32 / 4;
      if (k < p.K) p.biasParts[int64_t(blockIdx.z) * p.K + k] = bias[i / 2].v[i % 2 * 2];
    }
  sums.write(p.epilogue, j0, p.gather.reduction,
             [&](int row) -> int64_t { return k0 + row < p.K ? int64_t(blockIdx.z) * p.K + k0 + row : -1; });
}

using Tile128x128 = MmaShape<128, 128, 2, 2, 2>;
using Tile64x64 = MmaShape<64, 64, 2, 2, 4>;
using Tile16x128 = MmaShape<16, 128, 1, 4, 4>;

bool largeTile(const Conv2dWgrad& op) {
  if (op.algo == ConvAlgo::tile64x64) return false;
  return op.algo == ConvAlgo::tile128x128 || (op.dWeight.n > 64 && op.dWeight.h * op.dWeight.w * op.dWeight.c > 64);
}

// Two waves of blocks, at least 8 stages each, and no more than 64 MiB of parts.
int splitsOf(const CudaDevice& device, const Conv2dWgrad& op) {
  const int64_t size = op.dWeight.elements(), tile = largeTile(op) ? 128 : 64;
  const int64_t blocks = ceilDiv(op.dWeight.n, tile) * ceilDiv(size / op.dWeight.n, tile);
  return int(std::max<int64_t>(
      1, std::min<int64_t>({2 * device.multiprocessors() / blocks, op.dy.rows() / (8 * kMmaStep), (16 << 20) / size})));
}

// In floats: the parts of dWeight, then those of dBias.
int64_t weightParts(const Conv2dWgrad& op, int splits) { return splits == 1 ? 0 : splits * op.dWeight.elements(); }

template <class Shape, class Format, bool dyVectors, bool xVectors>
void launchWeights(CudaDevice& device, WeightProduct p, int splits) {
  p.advance = Pixel::at(InputLoader<Shape::BN, xVectors>::kRowsAtOnce, p.gather);
  const dim3 grid(unsigned(ceilDiv(p.gather.reduction, Shape::BN)), unsigned(ceilDiv(p.K, Shape::BM)),
                  unsigned(splits));
  launch<convWeightKernel<Shape, Format, dyVectors, xVectors>>(
      grid, kMmaThreads, Shape::kSharedWords * sizeof(uint32_t), device.stream(), p);
}

template <class Format>
void launchTile(CudaDevice& device, const WeightProduct& p, const Conv2dWgrad& op, int splits) {
  const bool dyVectors = inVectors(op.dy), xVectors = inVectors(op.x);
  if (xVectors && p.K <= 16 && op.algo != ConvAlgo::tile64x64)
    launchWeights<Tile16x128, Format, false, true>(device, p, splits);
  else if (dyVectors && xVectors && largeTile(op))
    launchWeights<Tile128x128, Format, true, true>(device, p, splits);
  else if (dyVectors && xVectors)
    launchWeights<Tile64x64, Format, true, true>(device, p, splits);
  else if (dyVectors)
    launchWeights<Tile64x64, Format, true, false>(device, p, splits);
  else if (xVectors)
    launchWeights<Tile64x64, Format, false, true>(device, p, splits);
  else
    launchWeights<Tile64x64, Format, false, false>(device, p, splits);
}

}  // namespace

size_t wgradScratchMma(const CudaDevice& device, const Conv2dWgrad& op) {
  const int splits = splitsOf(device, op);
  return size_t(weightParts(op, splits) + int64_t(splits) * op.dy.c) * sizeof(float);
}

void wgradMma(CudaDevice& device, const Conv2dWgrad& op, void* scratch) {
  const int splits = splitsOf(device, op);
  const Gather gather = forwardGather(op.x, op.dy, op.dWeight.h, op.dWeight.w, op.shape);
  // The weights' gradient as rows of output channels.
  const Tensor dw = {.data = op.dWeight.data, .n = op.dWeight.n, .c = gather.reduction, .ld = gather.reduction};
  Tensor parts = dw;
  if (splits > 1) {
    parts.data = scratch;
    parts.n *= splits;
  }
  WeightProduct p = {.gather = gather,
                     .x = narrow(op.x),
                     .dy = narrow(op.dy),
                     .dyLd = op.dy.ld,
                     .epilogue = Epilogue(parts, {}, {}, splits > 1 ? Tensor() : dw),
                     .biasParts = {},
                     .K = op.dy.c,
                     .stepsPerSplit = int(ceilDiv(ceilDiv(gather.pixels, kMmaStep), splits)),
                     .advance = {}};
  if (op.dBias) p.biasParts = scratchOf<float>(scratch, weightParts(op, splits), int64_t(splits) * p.K);
  if (op.x.dtype == DType::f16)
    launchTile<Half>(device, p, op, splits);
  else
    launchTile<Bfloat16>(device, p, op, splits);
  if (splits > 1)
    accumulate(device, scratchOf<float>(scratch, 0, weightParts(op, splits)), out(dw).data, dw.elements(),
               dw.elements(), splits);
  if (op.dBias) accumulate(device, p.biasParts, out(op.dBias).data, p.K, p.K, splits);
}

}  // namespace ddpm::cuda
