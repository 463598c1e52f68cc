// Convolution and its gradients in fp32 on the ordinary cores; see conv2d_gather.cuh. The weights of dgrad are packed
// as CRSK, so that the sum goes along a row.
//
// A block computes one tile of the result; cp.async keeps two stages of 16 steps of the sum ahead of the one in use.
#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 16;  // of the sum, a stage
constexpr int kStages = 3;
constexpr int kPitch = kStep + 4;  // of a row in shared memory: eight rows of 16 bytes meet no bank twice

struct Product {
  Gather gather;
  Global<const float> source, weights;  // weights [channels][all taps][channels of the source]
  Epilogue epilogue;
  int64_t rowsPerPart;
  int channels;       // of the result
  int stepsPerSplit;  // in units of kStep
  Step advance;       // kStep as digits
};

// BM pixels by BN channels; a thread has TM x TN of them, rows ty + i * (BM/TM) and columns tx + j * (BN/TN).
template <int BM, int BN, int TM, int TN, int V>
__global__ void __launch_bounds__(kThreads, 2) productKernel(Product p) {
  static_assert(BM / TM * (BN / TN) == kThreads);
  constexpr int kVectors = kStep / V;               // of a row of a tile
  constexpr int kRows = kThreads / kVectors;        // that are loaded at once
  constexpr int kLoads = (BM + kRows - 1) / kRows;  // of a by a thread
  constexpr int kStage = (BM + BN) * kPitch;
  static_assert(BM % kRows == 0);
  const Shared<float> shared = dynamicShared<float>(0, kStages * kStage);

  const int tid = threadIdx.x, tx = tid % (BN / TN), ty = tid / (BN / TN);
  const int m0 = blockIdx.x * BM, k0 = blockIdx.y * BN;
  const Gather& gather = p.gather;
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (gather.reduction + kStep - 1) / kStep);

  const int loadRow = tid / kVectors, loadColumn = tid % kVectors * V;
  const int64_t weightRow = int64_t(gather.weightH) * gather.weightW * gather.sourceC;
  Seen seen[kLoads];
  for (int i = 0; i < kLoads; ++i) seen[i] = Seen::by(m0 + loadRow + i * kRows, gather);
  Step step = Step::at(first * kStep + loadColumn, gather);

  const auto loadStage = [&](int t) {
    if (t < last) {
      const Shared<float> a = shared + t % kStages * kStage, b = a + BM * kPitch;
      const bool inside = step.inside(gather);
      const int64_t offset = step.offset(gather), weight = int64_t(step.tap(gather)) * gather.sourceC + step.c;
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        cpAsync<V * 4>(a, (loadRow + i * kRows) * kPitch + loadColumn, p.source, seen[i].index + offset,
                       inside && seen[i].inside(step, gather));
#pragma unroll
      for (int row = loadRow; row < BN; row += kRows)
        cpAsync<V * 4>(b, row * kPitch + loadColumn, p.weights, (k0 + row) * weightRow + weight,
                       inside && k0 + row < p.channels);
      step.advance(p.advance, gather);
    }
    cpAsyncCommit();  // of nothing at the end, so that the count of groups stays that of the stages
  };

  float sum[TM][TN];
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sum[i][j] = 0;

  for (int t = 0; t < kStages - 1; ++t) loadStage(first + t);
  for (int t = first; t < last; ++t) {
    cpAsyncWait<kStages - 2>();
    __syncthreads();  // stage t has arrived for all, and all are done with the one that is loaded next
    loadStage(t + kStages - 1);
    const Shared<float> a = shared + t % kStages * kStage, b = a + BM * kPitch;
#pragma unroll 1  // more would cost the registers of the second block
    for (int s = 0; s < kStep; s += 4) {
      Vec<float, 4> right[TN];
#pragma unroll
      for (int j = 0; j < TN; ++j) right[j] = load<4>(b, (tx + j * (BN / TN)) * kPitch + s);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const Vec<float, 4> left = load<4>(a, (ty + i * (BM / TM)) * kPitch + s);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += left.v[e] * right[j].v[e];
      }
    }
  }
  cpAsyncWait<0>();

#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int m = m0 + ty + i * (BM / TM);
    if (m >= gather.pixels) continue;
    const int64_t row = blockIdx.z * p.rowsPerPart + gather.resultRow(m);
#pragma unroll
    for (int j = 0; j < TN; ++j)
      if (const int k = k0 + tx + j * (BN / TN); k < p.channels) p.epilogue.write<1>(row, k, {{sum[i][j]}});
  }
}

template <int BM, int BN, int TM, int TN, int V>
void launchProduct(CudaDevice& device, const Product& p, int splits) {
  const dim3 grid(unsigned(ceilDiv(p.gather.pixels, BM)), unsigned(ceilDiv(p.channels, BN)), unsigned(splits));
  const size_t shared = size_t(kStages) * (BM + BN) * kPitch * sizeof(float);
  launch<productKernel<BM, BN, TM, TN, V>>(grid, kThreads, shared, device.stream(), p);
}

template <int V>
void launchTiles(CudaDevice& device, const Product& p, int splits) {
  const bool enough = fills(device, ceilDiv(p.gather.pixels, 128) * ceilDiv(p.channels, 128) * splits);
  if (p.channels <= 16) return launchProduct<128, 16, 4, 2, V>(device, p, splits);
  if constexpr (V == 4)
    if (p.channels > 64 && enough) return launchProduct<128, 128, 8, 8, V>(device, p, splits);
  launchProduct<64, 64, 4, 4, V>(device, p, splits);
}

bool aligned(const Tensor& t) { return t.c % 4 == 0 && t.ld % 4 == 0 && uintptr_t(t.data) % 16 == 0; }

// ---------------------------------------------------------------------------------------------------------------------
// wgrad

struct WeightProduct {
  Gather gather;
  Global<const float> x;
  Rows<const float> dy;
  Global<float> parts;  // [split][K][reduction]
  int K;
  int stepsPerSplit;  // in units of kStep pixels
  Pixel advance;      // rows that a thread loads
};

// BT x BT of dw; a thread has T x T in groups of four: rows and columns g * (BT / (T / 4)) + 4 * ty + i.
template <int BT, int V>
__global__ void __launch_bounds__(kThreads, 2) weightProductKernel(WeightProduct p) {
  constexpr int T = BT / 16, kGroups = T / 4, kGroupSize = BT / kGroups;
  constexpr int kVectors = BT / V;            // of a row of a tile
  constexpr int kRows = kThreads / kVectors;  // that are loaded at once
  constexpr int kStage = 2 * kStep * BT;
  const Shared<float> shared = dynamicShared<float>(0, kStages * kStage);

  const int tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
  const int k0 = blockIdx.y * BT, j0 = blockIdx.x * BT;
  const Gather& gather = p.gather;
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (gather.pixels + kStep - 1) / kStep);

  const int loadRow = tid / kVectors, loadColumn = tid % kVectors * V;
  const int k = k0 + loadColumn;
  const Step step = Step::at(j0 + loadColumn, gather);
  const int64_t offset = step.offset(gather);
  int m = first * kStep + loadRow;
  Pixel pixel = Pixel::at(m, gather);

  const auto loadStage = [&](int t) {
    if (t < last) {
      const Shared<float> a = shared + t % kStages * kStage, b = a + kStep * BT;
#pragma unroll
      for (int i = 0; i < kStep / kRows; ++i) {
        const int row = loadRow + i * kRows;
        const Seen seen = Seen::at(pixel.n, pixel.p, pixel.q, gather);
        cpAsync<V * 4>(a, row * BT + loadColumn, p.dy.data, int64_t(m) * p.dy.ld + k, m < gather.pixels && k < p.K);
        cpAsync<V * 4>(b, row * BT + loadColumn, p.x, seen.index + offset,
                       m < gather.pixels && step.inside(gather) && seen.inside(step, gather));
        m += kRows;
        pixel.advance(p.advance, gather);
      }
    }
    cpAsyncCommit();
  };

  float sum[T][T];
  for (int i = 0; i < T; ++i)
    for (int j = 0; j < T; ++j) sum[i][j] = 0;

  for (int t = 0; t < kStages - 1; ++t) loadStage(first + t);
  for (int t = first; t < last; ++t) {
    cpAsyncWait<kStages - 2>();
    __syncthreads();
    loadStage(t + kStages - 1);
    const Shared<float> a = shared + t % kStages * kStage, b = a + kStep * BT;
#pragma unroll 1
    for (int s = 0; s < kStep; ++s) {
      Vec<float, 4> left[kGroups], right[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        left[g] = load<4>(a, s * BT + g * kGroupSize + 4 * ty);
        right[g] = load<4>(b, s * BT + g * kGroupSize + 4 * tx);
      }
#pragma unroll
      for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < T; ++j) sum[i][j] += left[i / 4].v[i % 4] * right[j / 4].v[j % 4];
    }
  }
  cpAsyncWait<0>();

#pragma unroll
  for (int i = 0; i < T; ++i) {
    const int row = k0 + i / 4 * kGroupSize + 4 * ty + i % 4;
#pragma unroll
    for (int j = 0; j < T; ++j) {
      const int column = j0 + j / 4 * kGroupSize + 4 * tx + j % 4;
      if (row >= p.K || column >= gather.reduction) continue;
      p.parts[(int64_t(blockIdx.z) * p.K + row) * gather.reduction + column] = sum[i][j];
    }
  }
}

// Column sums of dy, in chunks.
struct BiasSums {
  Rows<const float> dy;
  Global<float> partial;  // [chunk][K]
  int channels;
  struct Column {
    Rows<const float> dy;
    int k;
    __device__ void add(int64_t row, Vec<float, 1>& sums) const { sums.v[0] += element(dy, row, k); }
  };
  __device__ Column column(int, int k) const { return {dy, k}; }
  __device__ void write(int, int chunk, int k, const Vec<float, 1>& sums) const {
    partial[int64_t(chunk) * channels + k] = sums.v[0];
  }
};

int weightTile(const Conv2dWgrad& op) {
  return op.dWeight.n > 64 && op.dWeight.h * op.dWeight.w * op.dWeight.c > 64 ? 128 : 64;
}

// Two waves of blocks on a large GPU, at least 16 stages each, and no more than 64 MiB of parts.
int weightSplits(const Conv2dWgrad& op) {
  const int tile = weightTile(op);
  const int64_t size = op.dWeight.elements(), blocks = ceilDiv(op.dWeight.n, tile) * ceilDiv(size / op.dWeight.n, tile);
  return int(std::max<int64_t>(1, std::min<int64_t>({264 / blocks, op.dy.rows() / (16 * kStep), (16 << 20) / size})));
}

// In floats: the parts of dWeight, then those of dBias.
int64_t weightParts(const Conv2dWgrad& op) { return weightSplits(op) * op.dWeight.elements(); }

template <int BT, int V>
void launchWeightProduct(CudaDevice& device, WeightProduct p, int splits) {
  p.advance = Pixel::at(kThreads / (BT / V), p.gather);
  const dim3 grid(unsigned(ceilDiv(p.gather.reduction, BT)), unsigned(ceilDiv(p.K, BT)), unsigned(splits));
  const size_t shared = size_t(kStages) * 2 * kStep * BT * sizeof(float);
  launch<weightProductKernel<BT, V>>(grid, kThreads, shared, device.stream(), p);
}

}  // namespace

void productF32(CudaDevice& device, const ConvProduct& c) {
  const Tensor& w = c.w;
  Product p = {.gather = c.gather,
               .source = in(c.source).data,
               .weights = Global<const float>(static_cast<const float*>(c.packed ? c.packed : w.data), w.elements()),
               .epilogue = c.epilogue,
               .rowsPerPart = c.rowsPerPart,
               .channels = c.channels,
               .stepsPerSplit = int(ceilDiv(ceilDiv(c.gather.reduction, kStep), c.splits)),
               .advance = Step::at(kStep, c.gather)};
  if (aligned(c.source) && uintptr_t(c.packed ? c.packed : w.data) % 16 == 0)
    launchTiles<4>(device, p, c.splits);
  else
    launchTiles<1>(device, p, c.splits);
}

size_t wgradScratchF32(const Conv2dWgrad& op) {
  const int64_t bias =
      int64_t(columnChunks(op.dy.rows())) * op.dy.c;  // of shapes only: asked for with or without dBias
  return size_t(weightParts(op) + bias) * sizeof(float);
}

void wgradF32(CudaDevice& device, const Conv2dWgrad& op, void* scratch) {
  const Tensor &x = op.x, &dy = op.dy, &dw = op.dWeight;
  const int splits = weightSplits(op);
  const Gather gather = forwardGather(x, dy, dw.h, dw.w, op.shape);
  const Global<float> parts = scratchOf<float>(scratch, 0, weightParts(op));
  const WeightProduct p = {.gather = gather,
                           .x = in(x).data,
                           .dy = in(dy),
                           .parts = parts,
                           .K = dy.c,
                           .stepsPerSplit = int(ceilDiv(ceilDiv(gather.pixels, kStep), splits)),
                           .advance = {}};
  const bool vectors = aligned(x) && aligned(dy);
  if (weightTile(op) == 128) {
    if (vectors)
      launchWeightProduct<128, 4>(device, p, splits);
    else
      launchWeightProduct<128, 1>(device, p, splits);
  } else {
    if (vectors)
      launchWeightProduct<64, 4>(device, p, splits);
    else
      launchWeightProduct<64, 1>(device, p, splits);
  }
  accumulate(device, parts, out(dw).data, dw.elements(), dw.elements(), splits);
  if (op.dBias) {
    const int chunks = columnChunks(dy.rows());
    const Global<float> bias = scratchOf<float>(scratch, weightParts(op), int64_t(chunks) * dy.c);
    columnSums<1>(device, BiasSums{in(dy), bias, dy.c}, 1, dy.rows(), dy.c, chunks);
    accumulate(device, bias, out(op.dBias).data, dy.c, dy.c, chunks);
  }
}

}  // namespace ddpm::cuda
