// Softmax attention (Vaswani et al. 2017, eq. 1), forward and backward, in tiles of 64 x 64 scores that live in shared
// memory only: the softmax is corrected as the tiles come by (Milakov & Gimelshein 2018; Dao et al. 2022).
//
// A block has 256 threads, and of each tile a thread has 4 x 4: rows ty + 16 i and columns tx + 16 j, so that a row
// belongs to 16 neighbouring lanes. Everything is made of two products:
//
//     scores       tile[r][c] = sum_d a[r][d] b[c][d]       queries by keys, or keys by queries
//     accumulate   result[r][d] += sum_c tile[r][c] b[c][d]  for up to kParts * 64 of the head's channels d
//
// Heads with more channels take several blocks ("slices"), each of which computes the scores again.
//
// Backward, with p = exp(scale q k - lse) and delta[i] = dy[i] y[i]:
//     dv = pT dy;  ds = scale p (dy vT - delta);  dk = dsT q;  dq = ds k
// dq is computed by blocks of queries, dk and dv by blocks of keys: nothing is added from two blocks, and no atomics
// are needed.
#include "kernels/cuda/attention_mask.cuh"
#include "kernels/cuda/attention_narrow.h"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;                                   // tokens a side
constexpr int kDepth = 32;                                  // channels of a tile of scores that are summed at once
constexpr int kPitch = kDepth + 4, kTilePitch = kTile + 4;  // of rows in shared memory: no bank twice
constexpr int kOperand = kTile * kPitch;
static_assert(2 * kOperand >= kTile * kTile, "the two operands' room also holds b of accumulate()");

// The tokens of one head of one sample.
struct Head {
  Global<const float> data;
  int64_t start;
  int ld, tokens;
};

// A tensor as its heads.
struct Heads {
  Rows<const float> rows;
  int tokens, distance;
  __device__ Head of(int n, int head) const {
    return {rows.data, int64_t(n) * tokens * rows.ld + head * distance, rows.ld, tokens};
  }
};

struct Output {
  Rows<float> rows;
  int tokens, distance;
  __device__ void write(int n, int head, int token, int d, float value) const {
    element(rows, int64_t(n) * tokens + token, head * distance + d) = value;
  }
};

struct Shape {
  int headDim, heads;
  float scale;
  bool vectors;  // rows can be read 16 bytes at a time
};

struct Workspace {
  Shared<float> a, b;  // operands of scores; b of accumulate from a on
  Shared<float> tile;
};
#define DDPM_ATTENTION_WORKSPACE(name)               \
  DDPM_SHARED(float, name##Operands, 2 * kOperand);  \
  DDPM_SHARED(float, name##Tile, kTile* kTilePitch); \
  const Workspace name = {name##Operands, name##Operands + kOperand, name##Tile}

__device__ __forceinline__ int column() { return threadIdx.x % 16; }
__device__ __forceinline__ int row() { return threadIdx.x / 16; }

// to[r][d] = head[token + r][first + d], zero outside of it, for 64 tokens and `Columns` channels, by cp.async.
template <int Columns>
__device__ __forceinline__ void loadTokens(const Shared<float>& to, int pitch, const Head& head, int token, int first,
                                           const Shape& shape) {
  for (int i = threadIdx.x; i < kTile * Columns / 4; i += kThreads) {
    const int r = i / (Columns / 4), d = i % (Columns / 4) * 4;
    const int64_t from = head.start + int64_t(token + r) * head.ld + first + d;
    const bool inside = token + r < head.tokens;
    if (shape.vectors) {
      cpAsync<16>(to, r * pitch + d, head.data, from, inside && first + d < shape.headDim);
    } else {
      for (int e = 0; e < 4; ++e)
        cpAsync<4>(to, r * pitch + d + e, head.data, from + e, inside && first + d + e < shape.headDim);
    }
  }
}

// Ends with a barrier only in front of its own writes: the caller may use the operands' room after its next barrier.
__device__ __forceinline__ void scores(const Workspace& w, const Head& a, int tokenA, const Head& b, int tokenB,
                                       const Shape& shape, float (&sum)[4][4]) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) sum[i][j] = 0;
  for (int first = 0; first < shape.headDim; first += kDepth) {
    __syncthreads();
    loadTokens<kDepth>(w.a, kPitch, a, tokenA, first, shape);
    loadTokens<kDepth>(w.b, kPitch, b, tokenB, first, shape);
    cpAsyncCommit();
    cpAsyncWait<0>();
    __syncthreads();
#pragma unroll 1  // registers are scarce
    for (int d = 0; d < kDepth; d += 4) {
      Vec<float, 4> right[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = load<4>(w.b, (column() + 16 * j) * kPitch + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Vec<float, 4> left = load<4>(w.a, (row() + 16 * i) * kPitch + d);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += left.v[e] * right[j].v[e];
      }
    }
  }
}

__device__ __forceinline__ void storeTile(const Workspace& w, const float (&tile)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) w.tile[(row() + 16 * i) * kTilePitch + column() + 16 * j] = tile[i][j];
}

// A thread's part of the result: rows as of a tile, channels first + part * 64 + 4 tx + j. The tile must have been
// stored by every thread; the barriers here show it.
template <int kParts>
__device__ __forceinline__ void accumulateTile(const Workspace& w, const Head& b, int token, int first,
                                               const Shape& shape, float (&result)[kParts][4][4]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (first + part * kTile >= shape.headDim) break;
    __syncthreads();
    loadTokens<kTile>(w.a, kTile, b, token, first + part * kTile, shape);
    cpAsyncCommit();
    cpAsyncWait<0>();
    __syncthreads();
#pragma unroll 1  // registers are scarce
    for (int c = 0; c < kTile; c += 4) {
      Vec<float, 4> right[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) right[e] = load<4>(w.a, (c + e) * kTile + 4 * column());
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Vec<float, 4> left = load<4>(w.tile, (row() + 16 * i) * kTilePitch + c);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int j = 0; j < 4; ++j) result[part][i][j] += left.v[e] * right[e].v[j];
      }
    }
  }
}

template <int kParts>
__device__ __forceinline__ void clear(float (&result)[kParts][4][4]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) result[part][i][j] = 0;
}

template <int kParts>
__device__ __forceinline__ void writeResult(const Output& output, int n, int head, int token, int first,
                                            const Shape& shape, const float (&result)[kParts][4][4]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int t = token + row() + 16 * i, d = first + part * kTile + 4 * column() + j;
        if (t < output.tokens && d < shape.headDim) output.write(n, head, t, d, result[part][i][j]);
      }
}

// Over the 16 lanes that share a row.
template <class F>
__device__ __forceinline__ float rowReduce(float x, F f) {
  for (int bits = 8; bits > 0; bits /= 2) x = f(x, __shfl_xor_sync(~0u, x, bits));
  return x;
}

// A block's tile of tokens, its slice of the channels, its head and its sample.
struct Place {
  int token, first, head, n;
};
template <int kParts>
__device__ __forceinline__ Place placeOf(int tokens) {
  const int tiles = (tokens + kTile - 1) / kTile;
  return {int(blockIdx.x) % tiles * kTile, int(blockIdx.x) / tiles * kParts * kTile, int(blockIdx.y), int(blockIdx.z)};
}

template <int kParts, class Mask>
__global__ void __launch_bounds__(kThreads)
    attentionKernel(Heads q, Heads k, Heads v, Output y, Rows<float> lse, Shape shape, Mask mask) {
  DDPM_ATTENTION_WORKSPACE(w);
  const Place at = placeOf<kParts>(q.tokens);
  const Head queries = q.of(at.n, at.head), keys = k.of(at.n, at.head), values = v.of(at.n, at.head);
  float result[kParts][4][4], maximum[4], denominator[4];
  clear<kParts>(result);
  for (int i = 0; i < 4; ++i) {
    maximum[i] = -INFINITY;
    denominator[i] = 0;
  }
  for (int token = 0; token < keys.tokens; token += kTile) {
    float s[4][4];
    scores(w, queries, at.token, keys, token, shape, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float top = maximum[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = token + column() + 16 * j;
        s[i][j] = key < keys.tokens ? s[i][j] * shape.scale : -INFINITY;
        if constexpr (Mask::kOn) {
          if (mask.hides(at.n, at.token + row() + 16 * i, key)) s[i][j] = kMaskedScore;
        }
        top = fmaxf(top, s[i][j]);
      }
      top = rowReduce(top, [](float a, float b) { return fmaxf(a, b); });
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) sum += s[i][j] = expf(s[i][j] - top);
      const float correction = expf(maximum[i] - top);
      denominator[i] = denominator[i] * correction + rowReduce(sum, [](float a, float b) { return a + b; });
      maximum[i] = top;
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int j = 0; j < 4; ++j) result[part][i][j] *= correction;
    }
    storeTile(w, s);
    accumulateTile<kParts>(w, values, token, at.first, shape, result);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = at.token + row() + 16 * i;
    if (at.first == 0 && column() == 0 && t < q.tokens)
      element(lse, at.n, at.head * q.tokens + t) = maximum[i] + logf(denominator[i]);  // kMaskedScore stays itself
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int j = 0; j < 4; ++j) result[part][i][j] /= denominator[i];
  }
  writeResult<kParts>(y, at.n, at.head, at.token, at.first, shape, result);
}

// ---- backward ----

// delta[n, head * tokens + i] = dy[i] y[i] of the head: a warp each.
__global__ void __launch_bounds__(kThreads) deltaKernel(Heads y, Heads dy, Global<float> delta, Shape shape) {
  const int token = blockIdx.x * (kThreads / 32) + threadIdx.x / 32, head = blockIdx.y, n = blockIdx.z;
  if (token >= y.tokens) return;  // the whole warp
  const Head a = y.of(n, head), b = dy.of(n, head);
  float sum = 0;
  for (int d = threadIdx.x % 32; d < shape.headDim; d += 32)
    sum += a.data[a.start + int64_t(token) * a.ld + d] * b.data[b.start + int64_t(token) * b.ld + d];
  sum = warpSum(sum);
  if (threadIdx.x % 32 == 0) delta[(int64_t(n) * shape.heads + head) * y.tokens + token] = sum;
}

// What the backward pass knows of a query.
struct QueryStatistics {
  Rows<const float> lse;
  Global<const float> delta;
  int tokens, heads;
  __device__ int64_t index(const Place& at, int query) const {
    return (int64_t(at.n) * heads + at.head) * tokens + query;
  }
  __device__ float lseOf(const Place& at, int query) const { return element(lse, at.n, at.head * tokens + query); }
  __device__ float probability(const Place& at, int query, float score) const { return expf(score - lseOf(at, query)); }
};

// With a mask, registers go before a second block on a multiprocessor: some would spill.
template <int kParts, class Mask>
__global__ void __launch_bounds__(kThreads, Mask::kOn ? 1 : 0)
    queryGradientKernel(Heads q, Heads k, Heads v, Heads dy, QueryStatistics statistics, Output dq, Shape shape,
                        Mask mask) {
  DDPM_ATTENTION_WORKSPACE(w);
  const Place at = placeOf<kParts>(q.tokens);
  const Head queries = q.of(at.n, at.head), keys = k.of(at.n, at.head), values = v.of(at.n, at.head);
  const Head upstream = dy.of(at.n, at.head);
  float result[kParts][4][4];
  clear<kParts>(result);
  for (int token = 0; token < keys.tokens; token += kTile) {
    float s[4][4], dp[4][4];
    scores(w, queries, at.token, keys, token, shape, s);
    scores(w, upstream, at.token, values, token, shape, dp);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int query = at.token + row() + 16 * i, key = token + column() + 16 * j;
        if (query < q.tokens && key < k.tokens)
          s[i][j] = shape.scale * statistics.probability(at, query, shape.scale * s[i][j]) *
                    (dp[i][j] - statistics.delta[statistics.index(at, query)]);
        else
          s[i][j] = 0;
        if constexpr (Mask::kOn) {
          if (mask.hides(at.n, query, key)) s[i][j] = 0;
        }
      }
    storeTile(w, s);
    accumulateTile<kParts>(w, keys, token, at.first, shape, result);
  }
  writeResult<kParts>(dq, at.n, at.head, at.token, at.first, shape, result);
}

// The tile is keys by queries here.
template <int kParts, class Mask>
__global__ void __launch_bounds__(kThreads)
    keyGradientKernel(Heads q, Heads k, Heads v, Heads dy, QueryStatistics statistics, Output dk, Output dv,
                      Shape shape, Mask mask) {
  DDPM_ATTENTION_WORKSPACE(w);
  const Place at = placeOf<kParts>(k.tokens);
  const Head queries = q.of(at.n, at.head), keys = k.of(at.n, at.head), values = v.of(at.n, at.head);
  const Head upstream = dy.of(at.n, at.head);
  float resultK[kParts][4][4], resultV[kParts][4][4];
  clear<kParts>(resultK);
  clear<kParts>(resultV);
  for (int token = 0; token < queries.tokens; token += kTile) {
    float p[4][4], ds[4][4];
    scores(w, keys, at.token, queries, token, shape, p);
    scores(w, values, at.token, upstream, token, shape, ds);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = at.token + row() + 16 * i, query = token + column() + 16 * j;
        const bool inside = key < k.tokens && query < q.tokens;
        p[i][j] = inside ? statistics.probability(at, query, shape.scale * p[i][j]) : 0.0f;
        ds[i][j] = inside ? shape.scale * p[i][j] * (ds[i][j] - statistics.delta[statistics.index(at, query)]) : 0.0f;
        if constexpr (Mask::kOn) {
          if (mask.hides(at.n, query, key)) {
            p[i][j] = mask.weight(statistics.lseOf(at, query));
            ds[i][j] = 0;
          }
        }
      }
    storeTile(w, p);
    accumulateTile<kParts>(w, upstream, token, at.first, shape, resultV);
    __syncthreads();
    storeTile(w, ds);
    accumulateTile<kParts>(w, queries, token, at.first, shape, resultK);
  }
  writeResult<kParts>(dk, at.n, at.head, at.token, at.first, shape, resultK);
  writeResult<kParts>(dv, at.n, at.head, at.token, at.first, shape, resultV);
}

bool vectors(std::initializer_list<const Tensor*> tensors, std::initializer_list<int> distances) {
  for (const Tensor* t : tensors)
    if (uintptr_t(t->data) % 16 || t->ld % 4) return false;
  for (int distance : distances)
    if (distance % 4) return false;
  return true;
}

Heads headsOf(const Tensor& t, int distance) { return {in(t), pixels(t), distance}; }
Output outputOf(const Tensor& t, int distance) { return {out(t), pixels(t), distance}; }

dim3 gridOf(const Tensor& tokens, const AttentionShape& s, int parts) {
  return dim3(unsigned(ceilDiv(pixels(tokens), kTile) * ceilDiv(s.headDim, parts * kTile)), unsigned(s.heads),
              unsigned(tokens.n));
}

template <int kParts>
void forward(CudaDevice& device, const Attention& op) {
  const AttentionShape& s = op.shape;
  const Shape shape = {s.headDim, s.heads, s.scale,
                       vectors({&op.q, &op.k, &op.v}, {s.headDim, s.qHead, s.kHead, s.vHead})};
  withMask(op.mask, [&]<class Mask>(const Mask& mask) {
    launch<attentionKernel<kParts, Mask>>(gridOf(op.q, s, kParts), kThreads, 0, device.stream(), headsOf(op.q, s.qHead),
                                          headsOf(op.k, s.kHead), headsOf(op.v, s.vHead), outputOf(op.y, s.headDim),
                                          out(op.lse), shape, mask);
  });
}

template <int kParts>
void backward(CudaDevice& device, const AttentionBackward& op, void* scratch) {
  const AttentionShape& s = op.shape;
  const Shape shape = {s.headDim, s.heads, s.scale,
                       vectors({&op.q, &op.k, &op.v, &op.dy}, {s.headDim, s.qHead, s.kHead, s.vHead})};
  const int queries = pixels(op.q);
  const Global<float> delta = scratchOf<float>(scratch, 0, int64_t(op.q.n) * s.heads * queries);
  const Heads q = headsOf(op.q, s.qHead), k = headsOf(op.k, s.kHead), v = headsOf(op.v, s.vHead);
  const Heads y = headsOf(op.y, s.headDim), dy = headsOf(op.dy, s.headDim);
  const QueryStatistics statistics = {in(op.lse), delta, queries, s.heads};
  launch<deltaKernel>(dim3(unsigned(ceilDiv(queries, kThreads / 32)), unsigned(s.heads), unsigned(op.q.n)), kThreads, 0,
                      device.stream(), y, dy, delta, shape);
  constexpr int kKeyParts = std::min(kParts, 2);  // of two results: more would not fit in registers
  withMask(op.mask, [&]<class Mask>(const Mask& mask) {
    launch<queryGradientKernel<kParts, Mask>>(gridOf(op.q, s, kParts), kThreads, 0, device.stream(), q, k, v, dy,
                                              statistics, outputOf(op.dq, s.qHead), shape, mask);
    launch<keyGradientKernel<kKeyParts, Mask>>(gridOf(op.k, s, kKeyParts), kThreads, 0, device.stream(), q, k, v, dy,
                                               statistics, outputOf(op.dk, s.kHead), outputOf(op.dv, s.vHead), shape,
                                               mask);
  });
}

}  // namespace

void run(CudaDevice& device, const Attention& op, void*) {
  if (sizeOf(op.q.dtype) == 2)
    runNarrow(device, op);
  else if (op.shape.headDim <= kTile)
    forward<1>(device, op);
  else
    forward<4>(device, op);
}

size_t scratch(const CudaDevice&, const AttentionBackward& op) {
  return size_t(op.q.n) * size_t(op.shape.heads) * size_t(pixels(op.q)) * sizeof(float);
}

void run(CudaDevice& device, const AttentionBackward& op, void* scratch) {
  if (sizeOf(op.q.dtype) == 2)
    runNarrow(device, op, scratch);
  else if (op.shape.headDim <= kTile)
    backward<1>(device, op, scratch);
  else
    backward<4>(device, op, scratch);
}

}  // namespace ddpm::cuda
