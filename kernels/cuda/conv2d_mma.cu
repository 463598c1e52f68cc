// Forward convolution and dgrad on tensor cores, operands in 16 bits; see conv2d_gather.cuh and conv2d_mma.cuh.
//
// a stands in shared memory by pixels. The weights stand there as KRSC has them: for the forward pass by output
// channels with the sum along a row, for dgrad, whose sum goes over output channels, the other way round.
#include "kernels/cuda/conv2d_mma.cuh"

namespace ddpm::cuda {
namespace {

struct Product {
  Gather gather;
  Global<const uint16_t> source, weights;  // weights KRSC
  Epilogue epilogue;
  int64_t rowsPerPart;
  int channels;       // of the result
  int stepsPerSplit;  // in units of kMmaStep
  Step advance;       // kMmaStep as digits
  Step advanceRows;   // dgrad: distance in the sum between two rows that a thread loads
};

// Rows of a result's pixels in the source, for the steps of a stage: a thread's vector of 8 in every 32nd row.
template <class Shape, bool vectors>
struct SourceLoader {
  static constexpr int kLoads = Shape::BM * MmaTile<kMmaStep>::kVectors / kMmaThreads;
  static_assert(kLoads * kMmaThreads == Shape::BM * MmaTile<kMmaStep>::kVectors);
  static constexpr int kRowsAtOnce = Shape::BM / kLoads;
  int row, vector;
  Seen seen[kLoads];
  Step step;

  __device__ SourceLoader(const Product& p, int m0, int first)
      : row(threadIdx.x / MmaTile<kMmaStep>::kVectors),
        vector(threadIdx.x % MmaTile<kMmaStep>::kVectors),
        step(Step::at(first * kMmaStep + vector * 8, p.gather)) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) seen[i] = Seen::by(m0 + row + i * kRowsAtOnce, p.gather);
  }

  __device__ void load(const Product& p, const Shared<uint32_t>& tile) {
    if constexpr (vectors) {
      const bool inside = step.inside(p.gather);
      const int64_t offset = step.offset(p.gather);
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        cpAsync<16>(tile, MmaTile<kMmaStep>::word(row + i * kRowsAtOnce, vector), p.source, seen[i].index + offset,
                    inside && seen[i].inside(step, p.gather));
    } else {  // eight numbers, perhaps of several taps
      Vec<uint32_t, 4> words[kLoads] = {};
      Step at = step;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const bool inside = at.inside(p.gather);
        const int64_t offset = at.offset(p.gather);
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
          if (inside && seen[i].inside(at, p.gather))
            words[i].v[e / 2] |= uint32_t(p.source[seen[i].index + offset]) << e % 2 * 16;
        at.next(p.gather);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) store(tile, MmaTile<kMmaStep>::word(row + i * kRowsAtOnce, vector), words[i]);
    }
    step.advance(p.advance, p.gather);
  }
};

// Rows of output channels: KRSC as it is.
template <class Shape, bool vectors>
struct ForwardWeightLoader {
  static constexpr int kColumns = kMmaStep, kRowsAtOnce = kMmaThreads / MmaTile<kColumns>::kVectors;
  int row, vector, j;
  int64_t index;

  __device__ ForwardWeightLoader(const Product& p, int k0, int first)
      : row(threadIdx.x / MmaTile<kColumns>::kVectors), vector(threadIdx.x % MmaTile<kColumns>::kVectors) {
    j = first * kMmaStep + vector * 8;
    index = int64_t(k0 + row) * p.gather.reduction + j;
  }

  __device__ void load(const Product& p, const Shared<uint32_t>& tile, int k0) {
    const int reduction = p.gather.reduction;
#pragma unroll
    for (int i = 0; i < (Shape::BN + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
      const int r = row + i * kRowsAtOnce;
      if (Shape::BN % kRowsAtOnce != 0 && r >= Shape::BN) break;
      const bool inside = k0 + r < p.channels && j < reduction;
      const int64_t at = index + int64_t(i * kRowsAtOnce) * reduction;
      if constexpr (vectors) {
        cpAsync<16>(tile, MmaTile<kColumns>::word(r, vector), p.weights, at, inside);
      } else {
        Vec<uint32_t, 4> words = {};
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (inside && j + e < reduction) words.v[e / 2] |= uint32_t(p.weights[at + e]) << e % 2 * 16;
        store(tile, MmaTile<kColumns>::word(r, vector), words);
      }
    }
    j += kMmaStep;
    index += kMmaStep;
  }
};

// Rows of steps of the sum, which are a tap and an output channel; columns of input channels, the result's.
template <class Shape, bool vectors>
struct DgradWeightLoader {
  static constexpr int kColumns = Shape::BN, kVectors = MmaTile<kColumns>::kVectors;
  static constexpr int kRowsAtOnce = kMmaThreads / kVectors < kMmaStep ? kMmaThreads / kVectors : kMmaStep;
  int row, vector;
  Step step;

  __device__ DgradWeightLoader(const Product& p, int, int first)
      : row(threadIdx.x / kVectors), vector(threadIdx.x % kVectors), step(Step::at(first * kMmaStep + row, p.gather)) {}

  __device__ void load(const Product& p, const Shared<uint32_t>& tile, int k0) {
    if (kRowsAtOnce == kMmaStep && row >= kMmaStep) return;
    const int column = k0 + vector * 8, taps = p.gather.weightH * p.gather.weightW;
#pragma unroll
    for (int i = 0; i < kMmaStep / kRowsAtOnce; ++i) {
      const bool inside = step.inside(p.gather) && column < p.channels;
      const int64_t at = (int64_t(step.c) * taps + step.tap(p.gather)) * p.channels + column;
      const int to = MmaTile<kColumns>::word(row + i * kRowsAtOnce, vector);
      if constexpr (vectors) {
        cpAsync<16>(tile, to, p.weights, at, inside);
      } else {
        Vec<uint32_t, 4> words = {};
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (inside && column + e < p.channels) words.v[e / 2] |= uint32_t(p.weights[at + e]) << e % 2 * 16;
        store(tile, to, words);
      }
      step.advance(p.advanceRows, p.gather);
    }
  }
};

template <class Shape, class Format, ConvPass pass, bool vectors>
__global__ void __launch_bounds__(kMmaThreads, Shape::kBlocksPerProcessor) convProductKernel(Product p) {
  constexpr bool kDgrad = pass == ConvPass::dgrad;
  using WeightLoader =
      std::conditional_t<kDgrad, DgradWeightLoader<Shape, vectors>, ForwardWeightLoader<Shape, vectors>>;
  const Shared<uint32_t> shared = dynamicShared<uint32_t>(0, Shape::kSharedWords);
  const int across = (p.channels + Shape::BN - 1) / Shape::BN;  // blocks that read the same pixels run side by side
  const int m0 = blockIdx.x / across * Shape::BM, k0 = blockIdx.x % across * Shape::BN;
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (p.gather.reduction + kMmaStep - 1) / kMmaStep);

  SourceLoader<Shape, vectors> source(p, m0, first);
  WeightLoader weights(p, k0, first);
  MmaSums<Shape> sums;
  sums.clear();

  pipeline<Shape>(
      first, last,
      [&](int, int stage) {
        source.load(p, shared + stage);
        weights.load(p, shared + (stage + Shape::kWordsA), k0);
      },
      [&](int stage) {
        const Shared<uint32_t> left = shared + stage, right = shared + (stage + Shape::kWordsA);
#pragma unroll
        for (int s = 0; s < kMmaStep; s += 16) {
          Vec<uint32_t, 4> a[Shape::kDown], b[Shape::kAcross];
#pragma unroll
          for (int i = 0; i < Shape::kDown; ++i)
            a[i] = loadBlock<kMmaStep, false, false>(left, Shape::warpRow() + 16 * i, s);
#pragma unroll
          for (int j = 0; j < Shape::kAcross; ++j) {
            const int column = Shape::warpColumn() + 16 * j;
            if constexpr (kDgrad)
              b[j] = loadBlock<WeightLoader::kColumns, true, false>(right, s, column);
            else
              b[j] = loadBlock<WeightLoader::kColumns, false, true>(right, column, s);
          }
          sums.template add<Format>(a, b);
        }
      });

  sums.write(p.epilogue, k0, p.channels, [&](int row) -> int64_t {
    const int m = m0 + row;
    return m < p.gather.pixels ? blockIdx.z * p.rowsPerPart + p.gather.resultRow(m) : -1;
  });
}

// A warp computes 64 x 64 of the first, 64 x 32 of the second, ...
using Tile128x128 = MmaShape<128, 128, 2, 2, 2>;
using Tile128x64 = MmaShape<128, 64, 2, 2, 3>;
using Tile64x64 = MmaShape<64, 64, 2, 2, 4>;
using Tile32x64 = MmaShape<32, 64, 2, 2, 4>;
using Tile128x16 = MmaShape<128, 16, 4, 1, 4>;

template <class Shape, class Format, ConvPass pass, bool vectors>
void launchProduct(CudaDevice& device, Product p, int splits) {
  if constexpr (pass == ConvPass::dgrad)
    p.advanceRows = Step::at(DgradWeightLoader<Shape, vectors>::kRowsAtOnce, p.gather);
  const dim3 grid(unsigned(ceilDiv(p.gather.pixels, Shape::BM) * ceilDiv(p.channels, Shape::BN)), 1, unsigned(splits));
  launch<convProductKernel<Shape, Format, pass, vectors>>(grid, kMmaThreads, Shape::kSharedWords * sizeof(uint32_t),
                                                          device.stream(), p);
}

template <class Format, ConvPass pass>
void launchTile(CudaDevice& device, const Product& p, ConvAlgo tile, bool vectors, int splits) {
  if (!vectors) {  // the few layers that have no vectors of 8 channels share two kernels
    if (tile == ConvAlgo::tile128x16) return launchProduct<Tile128x16, Format, pass, false>(device, p, splits);
    return launchProduct<Tile64x64, Format, pass, false>(device, p, splits);
  }
  switch (tile) {
    case ConvAlgo::tile128x128:
      return launchProduct<Tile128x128, Format, pass, true>(device, p, splits);
    case ConvAlgo::tile128x64:
      return launchProduct<Tile128x64, Format, pass, true>(device, p, splits);
    case ConvAlgo::tile32x64:
      return launchProduct<Tile32x64, Format, pass, true>(device, p, splits);
    case ConvAlgo::tile128x16:
      return launchProduct<Tile128x16, Format, pass, true>(device, p, splits);
    default:
      return launchProduct<Tile64x64, Format, pass, true>(device, p, splits);
  }
}

template <class Format>
void launchPass(CudaDevice& device, const Product& p, const ConvProduct& c, bool vectors) {
  if (c.pass == ConvPass::dgrad)
    launchTile<Format, ConvPass::dgrad>(device, p, c.algo, vectors, c.splits);
  else
    launchTile<Format, ConvPass::forward>(device, p, c.algo, vectors, c.splits);
}

}  // namespace

// The largest tile of which there are enough.
ConvAlgo chooseTile(const CudaDevice& device, int64_t pixels, int channels, int splits) {
  const auto enough = [&](int rows, int columns) {
    return fills(device, ceilDiv(pixels, rows) * ceilDiv(channels, columns) * splits);
  };
  if (channels <= 16) return ConvAlgo::tile128x16;
  if (pixels <= 32) return ConvAlgo::tile32x64;
  if (channels > 64 && enough(128, 128)) return ConvAlgo::tile128x128;
  if (enough(128, 64)) return ConvAlgo::tile128x64;
  return enough(64, 64) ? ConvAlgo::tile64x64 : ConvAlgo::tile32x64;
}

void productMma(CudaDevice& device, const ConvProduct& c) {
  Product p = {.gather = c.gather,
               .source = narrow(c.source),
               .weights = narrow(c.w),
               .epilogue = c.epilogue,
               .rowsPerPart = c.rowsPerPart,
               .channels = c.channels,
               .stepsPerSplit = int(ceilDiv(ceilDiv(c.gather.reduction, kMmaStep), c.splits)),
               .advance = Step::at(kMmaStep, c.gather),
               .advanceRows = {}};
  const bool vectors = inVectors(c.source) && inVectors(c.w);
  if (c.source.dtype == DType::f16)
    launchPass<Half>(device, p, c, vectors);
  else
    launchPass<Bfloat16>(device, p, c, vectors);
}

}  // namespace ddpm::cuda
