// Convolution and its gradients as matrix products whose operands are gathered on the way to shared memory (implicit
// GEMM), in fp32 on the ordinary cores.
//
// forward and dgrad   Both are y[m, k] = sum_j a[m, j] b[k, j]: m a pixel of the result, j a tap and a channel of the
//                     source in the order (r, s, c), b the weights; KRSC as they are for the forward pass, packed as
//                     CRSK for dgrad. They differ in where tap (r, s) of pixel (p, q) looks; see Taps.
// wgrad               dw[k, j] += sum_m dy[m, k] a[m, j], j as above; always by way of parts.
//
// A block computes one tile of the result; cp.async keeps two stages of 16 steps of the sum ahead of the one in use.
// Long sums with few tiles are split: each split writes its part to scratch memory, and a second kernel adds them up in
// order. Forward and dgrad split by the size of one sample only, and the order of additions within a split is the same
// for every tile, so that a sample's result does not depend on the batch.
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/transpose.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 16;  // of the sum, a stage
constexpr int kStages = 3;
constexpr int kPitch = kStep + 4;  // of a row in shared memory: eight rows of 16 bytes meet no bank twice

// Source pixel of tap (r, s): h = (p * multiply + offsetH + direction * r) / divide, where that is whole.
struct Taps {
  int multiply, direction, divide, offsetH, offsetW;
};
Taps forwardTaps(const ConvShape& s) { return {s.stride, 1, 1, -s.padTop, -s.padLeft}; }
Taps dgradTaps(const ConvShape& s) { return {1, -1, s.stride, s.padTop, s.padLeft}; }

struct Source {
  Rows<const float> x;
  int h, w, c;
  int R, S;
  Taps taps;
  __device__ int reduction() const { return R * S * c; }
};

// A position in the sum: tap and channel.
struct Step {
  int r, s, c;
  __device__ static Step at(int j, const Source& source) {
    const int tap = j / source.c;
    return {tap / source.S, tap % source.S, j - tap * source.c};
  }
  __device__ void advance(const Source& source) {
    for (c += kStep; c >= source.c; c -= source.c)
      if (++s == source.S) {
        s = 0;
        ++r;
      }
  }
};

// A pixel of the result, and where its first tap looks.
struct Pixel {
  int n, h, w;  // n < 0: there is none
  __device__ static Pixel at(int m, int count, int height, int width, const Taps& taps) {
    if (m >= count) return {-1, 0, 0};
    const int area = height * width, n = m / area, p = m - n * area;
    return {n, p / width * taps.multiply + taps.offsetH, p % width * taps.multiply + taps.offsetW};
  }
};

// Element of the source that a pixel sees at a tap; -1 where that is padding.
__device__ __forceinline__ int64_t sourceIndex(const Source& source, const Pixel& pixel, const Step& step) {
  int h = pixel.h + source.taps.direction * step.r, w = pixel.w + source.taps.direction * step.s;
  if (pixel.n < 0 || step.r >= source.R || h < 0 || w < 0) return -1;
  if (const int divide = source.taps.divide; divide > 1) {
    if (h % divide || w % divide) return -1;
    h /= divide;
    w /= divide;
  }
  if (h >= source.h || w >= source.w) return -1;
  return ((int64_t(pixel.n) * source.h + h) * source.w + w) * source.x.ld + step.c;
}

// What is done to a sum before it is stored.
struct Epilogue {
  Rows<float> y;
  Rows<const float> bias, sampleBias, residual;
  int area;
  __device__ void write(int m, int k, float sum) const {
    if (bias) sum += element(bias, 0, k);
    if (sampleBias) sum += element(sampleBias, m / area, k);
    if (residual) sum += element(residual, m, k);
    element(y, m, k) = sum;
  }
};

struct Product {
  Source source;
  Global<const float> weights;  // [K][reduction]
  Epilogue epilogue;
  Global<float> partial;  // [split][M][K], or absent: the epilogue writes
  int height, width;      // of the result
  int M, K;
  int stepsPerSplit;  // in units of kStep
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
  const int reduction = p.source.reduction();
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (reduction + kStep - 1) / kStep);

  const int loadRow = tid / kVectors, loadColumn = tid % kVectors * V;
  Pixel pixels[kLoads];
  for (int i = 0; i < kLoads; ++i)
    pixels[i] = Pixel::at(m0 + loadRow + i * kRows, p.M, p.height, p.width, p.source.taps);
  Step step = Step::at(first * kStep + loadColumn, p.source);

  const auto loadStage = [&](int t) {
    if (t < last) {
      const Shared<float> a = shared + t % kStages * kStage, b = a + BM * kPitch;
      const int j = t * kStep + loadColumn;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t index = sourceIndex(p.source, pixels[i], step);
        cpAsync<V * 4>(a, (loadRow + i * kRows) * kPitch + loadColumn, p.source.x.data, index, index >= 0);
      }
#pragma unroll
      for (int row = loadRow; row < BN; row += kRows)
        cpAsync<V * 4>(b, row * kPitch + loadColumn, p.weights, int64_t(k0 + row) * reduction + j,
                       k0 + row < p.K && j < reduction);
      step.advance(p.source);
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
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const int k = k0 + tx + j * (BN / TN);
      if (m >= p.M || k >= p.K) continue;
      if (p.partial)
        p.partial[(int64_t(blockIdx.z) * p.M + m) * p.K + k] = sum[i][j];
      else
        p.epilogue.write(m, k, sum[i][j]);
    }
  }
}

struct AddSplits {
  Global<const float> partial;
  Epilogue epilogue;
  int64_t M;
  int K, splits;
  template <int V>
  __device__ void run(int, int64_t m, int64_t k) const {
    float sum = 0;
    for (int i = 0; i < splits; ++i) sum += partial[(i * M + m) * K + k];
    epilogue.write(int(m), int(k), sum);
  }
};

// Enough blocks to fill a large GPU from one sample on, where the sum is long enough to be worth it.
int splitsOf(int area, int K, int reduction) {
  const int64_t tiles = ceilDiv(area, 64) * ceilDiv(K, 64);
  return int(std::max<int64_t>(1, std::min<int64_t>({8, 32 / tiles, reduction / 128})));
}

size_t productScratch(const Tensor& y, int reduction) {
  const int splits = splitsOf(pixels(y), y.c, reduction);
  return splits == 1 ? 0 : size_t(splits) * size_t(y.elements()) * sizeof(float);
}

template <int BM, int BN, int TM, int TN, int V>
void launchProduct(CudaDevice& device, const Product& p, int splits) {
  const dim3 grid(unsigned(ceilDiv(p.M, BM)), unsigned(ceilDiv(p.K, BN)), unsigned(splits));
  const size_t shared = size_t(kStages) * (BM + BN) * kPitch * sizeof(float);
  launch<productKernel<BM, BN, TM, TN, V>>(grid, kThreads, shared, device.stream(), p);
}

template <int V>
void launchTiles(CudaDevice& device, const Product& p, int splits) {
  const bool fills = ceilDiv(p.M, 128) * ceilDiv(p.K, 128) * splits >= device.multiprocessors();
  if (p.K <= 16) return launchProduct<128, 16, 4, 2, V>(device, p, splits);
  if constexpr (V == 4)
    if (p.K > 64 && fills) return launchProduct<128, 128, 8, 8, V>(device, p, splits);
  launchProduct<64, 64, 4, 4, V>(device, p, splits);
}

int pixelCount(const Tensor& t) {
  if (t.rows() > INT32_MAX - 128)  // as far as the kernels count
    throw BackendError(ErrorCode::unsupported, "a convolution of 2^31 pixels or more");
  return int(t.rows());
}

bool aligned(const void* pointer) { return uintptr_t(pointer) % 16 == 0; }

// weights: [y.c][R][S][x.c]
void product(CudaDevice& device, const Tensor& x, const Tensor& w, const void* weights, const Tensor& y,
             const Taps& taps, const Tensor& bias, const Tensor& sampleBias, const Tensor& residual, void* scratch) {
  if (y.elements() == 0) return;
  const int reduction = w.h * w.w * x.c, splits = splitsOf(pixels(y), y.c, reduction);
  Product p;
  p.source = {in(x), x.h, x.w, x.c, w.h, w.w, taps};
  p.weights = Global<const float>(static_cast<const float*>(weights), int64_t(y.c) * reduction);
  p.epilogue = {out(y), in(bias), in(sampleBias), in(residual), pixels(y)};
  if (splits > 1) p.partial = scratchOf<float>(scratch, 0, splits * y.elements());
  p.height = y.h;
  p.width = y.w;
  p.M = pixelCount(y);
  p.K = y.c;
  p.stepsPerSplit = int(ceilDiv(ceilDiv(reduction, kStep), splits));
  if (x.c % 4 == 0 && x.ld % 4 == 0 && aligned(x.data) && aligned(weights))
    launchTiles<4>(device, p, splits);
  else
    launchTiles<1>(device, p, splits);
  if (splits > 1) pointwiseOf<1>(device, Extent{1, p.M, p.K, 1}, AddSplits{p.partial, p.epilogue, p.M, p.K, splits});
}

// ---------------------------------------------------------------------------------------------------------------------
// wgrad

struct WeightProduct {
  Source source;
  Rows<const float> dy;
  Global<float> parts;  // [split][K][reduction]
  int height, width;    // of dy
  int M, K;
  int stepsPerSplit;
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
  const int reduction = p.source.reduction();
  const int first = blockIdx.z * p.stepsPerSplit;
  const int last = min(first + p.stepsPerSplit, (p.M + kStep - 1) / kStep);

  const int loadRow = tid / kVectors, loadColumn = tid % kVectors * V;
  const int k = k0 + loadColumn;
  const Step step = Step::at(j0 + loadColumn, p.source);

  const auto loadStage = [&](int t) {
    if (t < last) {
      const Shared<float> a = shared + t % kStages * kStage, b = a + kStep * BT;
#pragma unroll
      for (int row = loadRow; row < kStep; row += kRows) {
        const int m = t * kStep + row;
        cpAsync<V * 4>(a, row * BT + loadColumn, p.dy.data, int64_t(m) * p.dy.ld + k, m < p.M && k < p.K);
        const int64_t index = sourceIndex(p.source, Pixel::at(m, p.M, p.height, p.width, p.source.taps), step);
        cpAsync<V * 4>(b, row * BT + loadColumn, p.source.x.data, index, index >= 0);
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
      if (row >= p.K || column >= reduction) continue;
      p.parts[(int64_t(blockIdx.z) * p.K + row) * reduction + column] = sum[i][j];
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
void launchWeightProduct(CudaDevice& device, const WeightProduct& p, int reduction, int splits) {
  const dim3 grid(unsigned(ceilDiv(reduction, BT)), unsigned(ceilDiv(p.K, BT)), unsigned(splits));
  const size_t shared = size_t(kStages) * 2 * kStep * BT * sizeof(float);
  launch<weightProductKernel<BT, V>>(grid, kThreads, shared, device.stream(), p);
}

}  // namespace

ConvPlan planConv(const CudaDevice&, const Conv2d&, const PlanOptions&) { return {ConvAlgo::direct, 0}; }
ConvPlan planDgrad(const CudaDevice&, const Conv2dDgrad& op, const PlanOptions&) {
  return {ConvAlgo::direct, size_t(op.w.elements()) * sizeof(float)};
}
ConvAlgo planWgrad(const CudaDevice&, const Conv2dWgrad&, const PlanOptions&) { return ConvAlgo::direct; }

// KRSC to CRSK: each tap is a matrix.
void run(CudaDevice& device, const ConvPackWeights& op, void*) {
  if (op.pass != ConvPass::dgrad)
    throw BackendError(ErrorCode::invalidArgument, "the forward convolution takes its weights unpacked");
  const Tensor& w = op.w;
  const int taps = w.h * w.w;
  transpose(device, in(w).data, {w.c, int64_t(taps) * w.c}, Global<float>(static_cast<float*>(op.packed), w.elements()),
            {w.n, int64_t(taps) * w.n}, taps, w.n, w.c);
}

size_t scratch(const CudaDevice&, const Conv2d& op) { return productScratch(op.y, op.w.h * op.w.w * op.x.c); }
size_t scratch(const CudaDevice&, const Conv2dDgrad& op) { return productScratch(op.dx, op.w.h * op.w.w * op.dy.c); }
size_t scratch(const CudaDevice&, const Conv2dWgrad& op) {
  const int64_t bias =
      int64_t(columnChunks(op.dy.rows())) * op.dy.c;  // of shapes only: asked for with or without dBias
  return size_t(weightParts(op) + bias) * sizeof(float);
}

void run(CudaDevice& device, const Conv2d& op, void* scratch) {
  product(device, op.x, op.w, op.w.data, op.y, forwardTaps(op.shape), op.bias, op.sampleBias, op.residual, scratch);
}

void run(CudaDevice& device, const Conv2dDgrad& op, void* scratch) {
  if (!op.packed) throw BackendError(ErrorCode::invalidArgument, "dgrad reads packed weights; see planDgrad");
  product(device, op.dy, op.w, op.packed, op.dx, dgradTaps(op.shape), Tensor(), Tensor(), op.residual, scratch);
}

void run(CudaDevice& device, const Conv2dWgrad& op, void* scratch) {
  const Tensor &x = op.x, &dy = op.dy, &dw = op.dWeight;
  const int reduction = dw.h * dw.w * dw.c, splits = weightSplits(op);
  const Global<float> parts = scratchOf<float>(scratch, 0, weightParts(op));
  WeightProduct p;
  p.source = {in(x), x.h, x.w, x.c, dw.h, dw.w, forwardTaps(op.shape)};
  p.dy = in(dy);
  p.parts = parts;
  p.height = dy.h;
  p.width = dy.w;
  p.M = pixelCount(dy);
  p.K = dy.c;
  p.stepsPerSplit = int(ceilDiv(ceilDiv(p.M, kStep), splits));
  const bool vectors =
      x.c % 4 == 0 && x.ld % 4 == 0 && dy.c % 4 == 0 && dy.ld % 4 == 0 && aligned(x.data) && aligned(dy.data);
  if (weightTile(op) == 128) {
    if (vectors)
      launchWeightProduct<128, 4>(device, p, reduction, splits);
    else
      launchWeightProduct<128, 1>(device, p, reduction, splits);
  } else {
    if (vectors)
      launchWeightProduct<64, 4>(device, p, reduction, splits);
    else
      launchWeightProduct<64, 1>(device, p, reduction, splits);
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
