// Linear attention (Shen et al. 2021), in f32, and the tokens that are put before others.
//
// With p = softmax of k over the tokens, s = that of q over a head's channels:
//
//     forward    context = pᵀ v;  y = q' context, q' = scale s or scale q
//     backward   dContext = q'ᵀ dy;  dv = p dContext;  dk = p (v dContextᵀ - r), r = sum over channels of context
//                dContext, as sum_tokens p dp is;  dq = scale dy contextᵀ, and with s: s (that - sum_channels y dy)
//
// Scratch of the backward pass: dContext [n][head][d][e], r [n][C], sum_channels y dy [n][L][heads].
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kTile = 32;  // rows, or channels, of a tile
constexpr int kWarps = 8;

struct Heads {
  int heads, dim, tokens;  // tokens a sample
};

// ---- what is multiplied: value(n, row, c), row and channel counting through all samples and heads

struct Plain {
  Rows<const float> x;
  __device__ float value(int, int64_t row, int c) const { return element(x, row, c); }
};

struct KeyWeights {
  Rows<const float> k, lse;
  __device__ float value(int n, int64_t row, int c) const { return expf(element(k, row, c) - element(lse, n, c)); }
};

struct Queries {
  Rows<const float> q, lse;
  float scale;
  int dim;
  __device__ float value(int, int64_t row, int c) const {
    const float x = element(q, row, c);
    return scale * (lse ? expf(x - element(lse, row, c / dim)) : x);
  }
};

// ---- what becomes of a product: write(n, row, c, sum)

struct Store {
  Rows<float> y;
  __device__ void write(int, int64_t row, int c, float sum) const { element(y, row, c) = sum; }
};

struct StoreKeyGradient {
  Rows<const float> k, lse;
  Global<const float> r;
  Rows<float> dk;
  int channels;
  __device__ void write(int n, int64_t row, int c, float sum) const {
    const float p = expf(element(k, row, c) - element(lse, n, c));
    element(dk, row, c) = p * (sum - r[int64_t(n) * channels + c]);
  }
};

struct StoreQueryGradient {
  Rows<const float> q, lse;
  Global<const float> sums;  // [row][heads]
  Rows<float> dq;
  float scale;
  int heads, dim;
  __device__ void write(int, int64_t row, int c, float sum) const {
    float d = scale * sum;
    if (lse) {
      const int head = c / dim;
      d = expf(element(q, row, c) - element(lse, row, head)) * (d - sums[row * heads + head]);
    }
    element(dq, row, c) = d;
  }
};

// ---- kernels

// The log of the sum of exponentials down a column: a warp's lanes are neighbouring columns, its 8 warps take every
// eighth row.
__global__ void __launch_bounds__(32 * kWarps)
    columnLseKernel(Rows<const float> k, Rows<float> lse, int tokens, int channels) {
  DDPM_SHARED(float, partial, kWarps * 32);
  const int lane = threadIdx.x, part = threadIdx.y, c = blockIdx.x * 32 + lane, n = blockIdx.y;
  const int64_t first = int64_t(n) * tokens;
  float most = -INFINITY;
  if (c < channels)
    for (int i = part; i < tokens; i += kWarps) most = fmaxf(most, element(k, first + i, c));
  partial[part * 32 + lane] = most;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) most = fmaxf(most, float(partial[i * 32 + lane]));
  __syncthreads();
  float sum = 0;
  if (c < channels)
    for (int i = part; i < tokens; i += kWarps) sum += expf(element(k, first + i, c) - most);
  partial[part * 32 + lane] = sum;
  __syncthreads();
  if (part != 0 || c >= channels) return;
  sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += partial[i * 32 + lane];
  element(lse, n, c) = most + logf(sum);
}

// The same along the channels of a head: a warp a row and head.
__global__ void __launch_bounds__(32 * kWarps)
    rowLseKernel(Rows<const float> q, Rows<float> lse, int64_t rows, int heads, int dim) {
  const int64_t at = int64_t(blockIdx.x) * kWarps + threadIdx.y, row = at / heads;
  const int head = int(at % heads);
  if (row >= rows) return;  // the whole warp
  float most = -INFINITY;
  for (int d = threadIdx.x; d < dim; d += 32) most = fmaxf(most, element(q, row, head * dim + d));
  for (int bits = 16; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, bits));
  float sum = 0;
  for (int d = threadIdx.x; d < dim; d += 32) sum += expf(element(q, row, head * dim + d) - most);
  sum = warpSum(sum);
  if (threadIdx.x == 0) element(lse, row, head) = most + logf(sum);
}

// y[row * heads + head] = sum over the head's channels of a b: a warp a row and head.
__global__ void __launch_bounds__(32 * kWarps)
    rowDotsKernel(Rows<const float> a, Rows<const float> b, Global<float> y, int64_t rows, int heads, int dim) {
  const int64_t at = int64_t(blockIdx.x) * kWarps + threadIdx.y, row = at / heads;
  const int first = int(at % heads) * dim;
  if (row >= rows) return;  // the whole warp
  float sum = 0;
  for (int d = threadIdx.x; d < dim; d += 32) sum += element(a, row, first + d) * element(b, row, first + d);
  sum = warpSum(sum);
  if (threadIdx.x == 0) y[at] = sum;
}

// y[n, head, d, e] = sum over the sample's rows of a[row, d] b[row, e]: a block a tile of 32 x 32 of a head's matrix.
template <class A, class B>
__global__ void __launch_bounds__(32 * kWarps)
    outerSumsKernel(A a, B b, Global<float> y, int64_t yPitch, Heads shape, int tiles) {
  DDPM_SHARED(float, left, kTile* kTile);
  DDPM_SHARED(float, right, kTile* kTile);
  const int lane = threadIdx.x, part = threadIdx.y, head = blockIdx.y, n = blockIdx.z;
  const int firstD = int(blockIdx.x) / tiles * kTile, firstE = int(blockIdx.x) % tiles * kTile;
  const int channel = head * shape.dim;
  const int64_t start = int64_t(n) * shape.tokens;
  float sums[kTile / kWarps];
  for (int i = 0; i < kTile / kWarps; ++i) sums[i] = 0;
  for (int row = 0; row < shape.tokens; row += kTile) {
    __syncthreads();
    for (int r = part; r < kTile; r += kWarps) {
      const bool inside = row + r < shape.tokens;
      left[r * kTile + lane] =
          inside && firstD + lane < shape.dim ? a.value(n, start + row + r, channel + firstD + lane) : 0.0f;
      right[r * kTile + lane] =
          inside && firstE + lane < shape.dim ? b.value(n, start + row + r, channel + firstE + lane) : 0.0f;
    }
    __syncthreads();
    for (int r = 0; r < kTile; ++r) {
      const float e = right[r * kTile + lane];
      for (int i = 0; i < kTile / kWarps; ++i) sums[i] += left[r * kTile + part + i * kWarps] * e;
    }
  }
  for (int i = 0; i < kTile / kWarps; ++i) {
    const int d = firstD + part + i * kWarps, e = firstE + lane;
    if (d < shape.dim && e < shape.dim) y[n * yPitch + (int64_t(head) * shape.dim + d) * shape.dim + e] = sums[i];
  }
}

// out(row, e) = sum over d of a[row, d] matrix[d, e], or with Transposed matrix[e, d]: a block 32 rows and 32 channels
// of a head.
template <bool Transposed, class A, class Out>
__global__ void __launch_bounds__(32 * kWarps)
    rowProductsKernel(A a, Global<const float> matrix, int64_t pitch, Out out, Heads shape, int tiles) {
  DDPM_SHARED(float, left, kTile* kTile);
  DDPM_SHARED(float, right, kTile*(kTile + 1));
  const int lane = threadIdx.x, part = threadIdx.y, head = blockIdx.y, n = blockIdx.z;
  const int firstRow = int(blockIdx.x) / tiles * kTile, firstE = int(blockIdx.x) % tiles * kTile;
  const int channel = head * shape.dim;
  const int64_t start = int64_t(n) * shape.tokens + firstRow;
  const int64_t base = n * pitch + int64_t(head) * shape.dim * shape.dim;
  float sums[kTile / kWarps];
  for (int i = 0; i < kTile / kWarps; ++i) sums[i] = 0;
  for (int firstD = 0; firstD < shape.dim; firstD += kTile) {
    __syncthreads();
    for (int r = part; r < kTile; r += kWarps) {
      left[r * kTile + lane] = firstRow + r < shape.tokens && firstD + lane < shape.dim
                                   ? a.value(n, start + r, channel + firstD + lane)
                                   : 0.0f;
      // A row of the matrix in memory, whichever index it is.
      const int i = (Transposed ? firstE : firstD) + r, j = (Transposed ? firstD : firstE) + lane;
      const float m = i < shape.dim && j < shape.dim ? matrix[base + int64_t(i) * shape.dim + j] : 0.0f;
      right[Transposed ? lane * (kTile + 1) + r : r * (kTile + 1) + lane] = m;
    }
    __syncthreads();
    for (int d = 0; d < kTile; ++d) {
      const float m = right[d * (kTile + 1) + lane];
      for (int i = 0; i < kTile / kWarps; ++i) sums[i] += left[(part + i * kWarps) * kTile + d] * m;
    }
  }
  for (int i = 0; i < kTile / kWarps; ++i) {
    const int r = part + i * kWarps, e = firstE + lane;
    if (firstRow + r < shape.tokens && e < shape.dim) out.write(n, start + r, channel + e, sums[i]);
  }
}

// r[i] = sum over `dim` of a[i, e] b[i, e], rows of samples pitches apart: a warp a row.
__global__ void __launch_bounds__(32 * kWarps)
    matrixDotsKernel(Rows<const float> a, Global<const float> b, Global<float> r, int channels, int dim) {
  const int c = blockIdx.x * kWarps + threadIdx.y, n = blockIdx.y;
  if (c >= channels) return;  // the whole warp
  const int64_t first = int64_t(c) * dim;
  float sum = 0;
  for (int e = threadIdx.x; e < dim; e += 32)
    sum += element(a, n, first + e) * b[(int64_t(n) * channels * dim) + first + e];
  sum = warpSum(sum);
  if (threadIdx.x == 0) r[int64_t(n) * channels + c] = sum;
}

struct Prepend {
  Rows<const float> x, table;
  Rows<float> y;
  int row, count, channels, tokens;
  template <int V>
  __device__ void run(int n, int64_t at, int64_t c) const {
    const int token = int(at - int64_t(n) * tokens);
    if (token < count)
      store<V>(y, at, c, load<V>(table, row, int64_t(token) * channels + c));
    else
      store<V>(y, at, c, load<V>(x, int64_t(n) * (tokens - count) + token - count, c));
  }
};

struct PrependGradient {
  Rows<const float> dy;
  Rows<float> dx;
  int count, tokens;
  template <int V>
  __device__ void run(int n, int64_t at, int64_t c) const {
    store<V>(dx, at, c, load<V>(dy, at + int64_t(n + 1) * count, c));
  }
};

// A thread owns an element of the table's row: samples add up in their order.
__global__ void __launch_bounds__(128) prependedGradientKernel(Rows<const float> dy, Rows<float> dTable, int row,
                                                               int size, int channels, int samples, int tokens) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = element(dTable, row, i);
  for (int n = 0; n < samples; ++n) sum += element(dy, int64_t(n) * tokens + i / channels, i % channels);
  element(dTable, row, i) = sum;
}

// ---- launchers

const dim3 kBlock(32, kWarps);

Heads headsOf(const LinearAttentionShape& shape, const Tensor& t) { return {shape.heads, shape.headDim, pixels(t)}; }

unsigned rowsAndHeads(const Tensor& t, int heads) { return unsigned(ceilDiv(t.rows() * heads, kWarps)); }

template <class A, class B>
void outerSums(CudaDevice& device, const A& a, const B& b, Global<float> y, int64_t pitch, const Heads& shape,
               int samples) {
  const int tiles = int(ceilDiv(shape.dim, kTile));
  launch<outerSumsKernel<A, B>>(dim3(unsigned(tiles * tiles), unsigned(shape.heads), unsigned(samples)), kBlock, 0,
                                device.stream(), a, b, y, pitch, shape, tiles);
}

template <bool Transposed, class A, class Out>
void rowProducts(CudaDevice& device, const A& a, Global<const float> matrix, int64_t pitch, const Out& out,
                 const Heads& shape, int samples) {
  const int tiles = int(ceilDiv(shape.dim, kTile));
  const dim3 grid(unsigned(tiles * ceilDiv(shape.tokens, kTile)), unsigned(shape.heads), unsigned(samples));
  launch<rowProductsKernel<Transposed, A, Out>>(grid, kBlock, 0, device.stream(), a, matrix, pitch, out, shape, tiles);
}

}  // namespace

void run(CudaDevice& device, const LinearAttention& op, void*) {
  const auto [heads, dim, scale, querySoftmax] = op.shape;
  const int n = op.q.n;
  const Heads queries = headsOf(op.shape, op.q), keys = headsOf(op.shape, op.k);
  if (querySoftmax)
    launch<rowLseKernel>(rowsAndHeads(op.q, heads), kBlock, 0, device.stream(), in(op.q), out(op.queryLse), op.q.rows(),
                         heads, dim);
  launch<columnLseKernel>(dim3(unsigned(ceilDiv(op.k.c, 32)), unsigned(n)), kBlock, 0, device.stream(), in(op.k),
                          out(op.keyLse), keys.tokens, op.k.c);
  outerSums(device, KeyWeights{in(op.k), in(op.keyLse)}, Plain{in(op.v)}, out(op.context).data, op.context.ld, keys, n);
  rowProducts<false>(device, Queries{in(op.q), in(op.queryLse), scale, dim}, in(op.context).data, op.context.ld,
                     Store{out(op.y)}, queries, n);
}

size_t scratch(const CudaDevice&, const LinearAttentionBackward& op) {
  const int64_t c = op.q.c;
  return size_t(op.q.n * c * op.shape.headDim + op.q.n * c + op.q.rows() * op.shape.heads) * sizeof(float);
}

void run(CudaDevice& device, const LinearAttentionBackward& op, void* scratch) {
  const auto [heads, dim, scale, querySoftmax] = op.shape;
  const int n = op.q.n, c = op.q.c;
  const int64_t pitch = int64_t(c) * dim, matrices = n * pitch;
  const Heads queries = headsOf(op.shape, op.q), keys = headsOf(op.shape, op.k);
  const Global<float> dContext = scratchOf<float>(scratch, 0, matrices);
  const Global<float> r = scratchOf<float>(scratch, matrices, int64_t(n) * c);
  const Global<float> dots = scratchOf<float>(scratch, matrices + int64_t(n) * c, op.q.rows() * heads);
  outerSums(device, Queries{in(op.q), in(op.queryLse), scale, dim}, Plain{in(op.dy)}, dContext, pitch, queries, n);
  launch<matrixDotsKernel>(dim3(unsigned(ceilDiv(c, kWarps)), unsigned(n)), kBlock, 0, device.stream(), in(op.context),
                           dContext, r, c, dim);
  if (querySoftmax)
    launch<rowDotsKernel>(rowsAndHeads(op.q, heads), kBlock, 0, device.stream(), in(op.y), in(op.dy), dots, op.q.rows(),
                          heads, dim);
  rowProducts<true>(device, Plain{in(op.dy)}, in(op.context).data, op.context.ld,
                    StoreQueryGradient{in(op.q), in(op.queryLse), dots, out(op.dq), scale, heads, dim}, queries, n);
  rowProducts<false>(device, KeyWeights{in(op.k), in(op.keyLse)}, dContext, pitch, Store{out(op.dv)}, keys, n);
  rowProducts<true>(device, Plain{in(op.v)}, dContext, pitch,
                    StoreKeyGradient{in(op.k), in(op.keyLse), r, out(op.dk), c}, keys, n);
}

void run(CudaDevice& device, const PrependTokens& op, void*) {
  const int channels = op.x.c, count = op.table.c / channels;
  Extent extent = bySample({&op.y, &op.x});
  if (uintptr_t(op.table.data) % 16 || op.table.ld % extent.width) extent.width = 1;
  pointwise(device, extent, Prepend{in(op.x), in(op.table), out(op.y), op.row, count, channels, pixels(op.y)});
}

void run(CudaDevice& device, const PrependTokensBackward& op, void*) {
  const int channels = op.dx.c, size = op.dTable.c, count = size / channels;
  pointwise(device, bySample({&op.dx, &op.dy}), PrependGradient{in(op.dy), out(op.dx), count, pixels(op.dy)});
  launch<prependedGradientKernel>(unsigned(ceilDiv(size, 128)), 128, 0, device.stream(), in(op.dy), out(op.dTable),
                                  op.row, size, channels, op.dy.n, pixels(op.dy));
}

}  // namespace ddpm::cuda
