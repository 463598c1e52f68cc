// Attention with 16-bit operands on tensor cores (Dao 2023, FlashAttention-2): what attention.cu computes, in the same
// order of blocks. A block has four warps, and each of them 16 rows of a tile of scores, in registers from the first
// product to the second: there the accumulators of scores are, rounded to 16 bits, the fragments of the operand.
//
// The rows are queries (forward, dq) or keys (dk, dv), the columns the other ones. Both lie in shared memory as
// [token][W channels and 8 more], 16 bytes apart modulo 128, so that ldmatrix meets no bank twice. A head of more than
// W channels is summed over chunks of W, and its result is cut into slices of W, each a block of its own.
#include "kernels/cuda/attention_mask.cuh"
#include "kernels/cuda/attention_narrow.h"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kRows = 64, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kForwardColumns = 64;
// Wide heads leave fewer registers for scores.
template <int W>
constexpr int kBackwardColumns = W == 128 ? 16 : 32;
constexpr float kLog2e = 1.44269504f, kLn2 = 0.69314718f;

template <int W>
constexpr int kPitch = (W + 8) / 2;  // of a token in shared memory, in words
template <int W>
constexpr size_t kTokenBytes = kPitch<W> * sizeof(uint32_t);

struct Shape {
  int headDim, heads;
  float scale;
  bool vectors;  // tokens can be read 16 bytes at a time
};

// The tokens of one head of one sample; as words where they are read 16 bytes at a time.
struct Head {
  Global<const uint16_t> data;
  Global<const uint32_t> words;
  int64_t start;
  int ld, tokens;
};

struct Heads {
  Global<const uint16_t> data;
  Global<const uint32_t> words;
  int ld, tokens, distance;
  __device__ Head of(int n, int head) const {
    return {data, words, int64_t(n) * tokens * ld + head * distance, ld, tokens};
  }
};

struct Output {
  Global<uint16_t> data;
  Global<uint32_t> words;
  int ld, tokens, distance;
};

// What a block computes: rows from `token` on, channels from `first` on.
struct Place {
  int n, head, token, first, chunks;
};
template <int W>
__device__ __forceinline__ Place placeOf(const Shape& shape) {
  const int slices = (shape.headDim + W - 1) / W;
  return {int(blockIdx.z), int(blockIdx.y), int(blockIdx.x) / slices * kRows, int(blockIdx.x) % slices * W, slices};
}

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int firstRow() { return threadIdx.x / 32 * 16; }  // of the warp, in the tile

// Tokens [token, token + R) of the head, channels [first, first + W); zeros beyond either's end.
template <int R, int W>
__device__ __forceinline__ void loadTile(const Shared<uint32_t>& to, const Head& head, int token, int first,
                                         const Shape& shape) {
  constexpr int kVectors = W / 8;
  for (int i = threadIdx.x; i < R * kVectors; i += kThreads) {
    const int r = i / kVectors, d = i % kVectors * 8, at = r * kPitch<W> + d / 2;
    const bool inside = token + r < head.tokens && first + d < shape.headDim;
    const int64_t from = head.start + int64_t(token + r) * head.ld + first + d;
    if (shape.vectors) {
      cpAsync<16>(to, at, head.words, from / 2, inside);
      continue;
    }
    Vec<uint32_t, 4> words = {{0, 0, 0, 0}};
    for (int k = 0; k < 8; ++k)
      if (inside && first + d + k < shape.headDim) words.v[k / 2] |= uint32_t(head.data[from + k]) << (k % 2 * 16);
    store<4>(to, at, words);
  }
}

__device__ __forceinline__ void arrive() {
  cpAsyncCommit();
  cpAsyncWait<0>();
  __syncthreads();
}

template <int N>
__device__ __forceinline__ void clear(Vec<float, 4> (&tiles)[N]) {
  for (int i = 0; i < N; ++i) tiles[i] = {{0, 0, 0, 0}};
}

// s += rows columnsT over the first `depth` channels of the tiles. s[j] is the warp's 16 rows by columns 8 j and on.
template <class Format, int W, int C>
__device__ __forceinline__ void addScores(Vec<float, 4> (&s)[C / 8], const Shared<uint32_t>& rows,
                                          const Shared<uint32_t>& columns, int depth) {
  const int row = firstRow() + lane() % 16, half = lane() / 16;
#pragma unroll
  for (int k = 0; k < W / 16; ++k) {
    if (k * 16 >= depth) continue;
    const auto a = loadMatrices<false>(rows, row * kPitch<W> + k * 8 + half * 4);
#pragma unroll
    for (int j = 0; j < C / 16; ++j) {
      const int column = j * 16 + lane() % 8 + half * 8;
      const auto b = loadMatrices<false>(columns, column * kPitch<W> + k * 8 + lane() / 8 % 2 * 4);
      multiplyAdd<Format>(s[2 * j], a, Vec<uint32_t, 2>{{b.v[0], b.v[1]}});
      multiplyAdd<Format>(s[2 * j + 1], a, Vec<uint32_t, 2>{{b.v[2], b.v[3]}});
    }
  }
}

// result += s columns, for the first `width` channels of the tile of columns.
template <class Format, int W, int C>
__device__ __forceinline__ void addProduct(Vec<float, 4> (&result)[W / 8], const Vec<float, 4> (&s)[C / 8],
                                           const Shared<uint32_t>& columns, int width) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k) {
    const Vec<float, 4>&left = s[2 * k], &right = s[2 * k + 1];
    const Vec<uint32_t, 4> a = {{pack<Format>(left.v[0], left.v[1]), pack<Format>(left.v[2], left.v[3]),
                                 pack<Format>(right.v[0], right.v[1]), pack<Format>(right.v[2], right.v[3])}};
    const int column = k * 16 + lane() % 16;
#pragma unroll
    for (int j = 0; j < W / 16; ++j) {
      if (j * 16 >= width) continue;
      const auto b = loadMatrices<true>(columns, column * kPitch<W> + j * 8 + lane() / 16 * 4);
      multiplyAdd<Format>(result[2 * j], a, Vec<uint32_t, 2>{{b.v[0], b.v[1]}});
      multiplyAdd<Format>(result[2 * j + 1], a, Vec<uint32_t, 2>{{b.v[2], b.v[3]}});
    }
  }
}

// The warp's rows of the result, each times its factor.
template <class Format, int W>
__device__ __forceinline__ void writeRows(const Output& out, const Place& at, const Shape& shape,
                                          const Vec<float, 4> (&result)[W / 8], const Vec<float, 2>& factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = at.token + firstRow() + lane() / 4 + half * 8;
    if (token >= out.tokens) continue;
    const int64_t start = (int64_t(at.n) * out.tokens + token) * out.ld + at.head * out.distance;
#pragma unroll
    for (int j = 0; j < W / 8; ++j) {
      const int d = at.first + j * 8 + lane() % 4 * 2;
      const uint32_t pair =
          pack<Format>(result[j].v[2 * half] * factor.v[half], result[j].v[2 * half + 1] * factor.v[half]);
      if (shape.vectors) {
        if (d < shape.headDim) out.words[(start + d) / 2] = pair;
        continue;
      }
      if (d < shape.headDim) out.data[start + d] = uint16_t(pair);
      if (d + 1 < shape.headDim) out.data[start + d + 1] = uint16_t(pair >> 16);
    }
  }
}

// Over the four lanes that have a row.
template <class F>
__device__ __forceinline__ float rowReduce(float x, F f) {
  x = f(x, __shfl_xor_sync(~0u, x, 1));
  return f(x, __shfl_xor_sync(~0u, x, 2));
}

// ---- forward ----

template <class Format, int W, class Mask>
__global__ void __launch_bounds__(kThreads)
    narrowAttentionKernel(Heads q, Heads k, Heads v, Output y, Rows<float> lse, Shape shape, Mask mask) {
  constexpr int C = kForwardColumns;
  const Place at = placeOf<W>(shape);
  const Head queries = q.of(at.n, at.head), keys = k.of(at.n, at.head), values = v.of(at.n, at.head);
  const auto rows = dynamicShared<uint32_t>(0, kRows * kPitch<W>);
  const auto columns = dynamicShared<uint32_t>(kRows * kTokenBytes<W>, C * kPitch<W>);
  const auto slice = dynamicShared<uint32_t>((kRows + C) * kTokenBytes<W>, C * kPitch<W>);
  const bool single = at.chunks == 1;  // then the queries stay, and keys come while values are used
  Vec<float, 4> result[W / 8], s[C / 8];
  clear(result);
  Vec<float, 2> maximum = {{-INFINITY, -INFINITY}}, denominator = {{0, 0}};
  if (single) {
    loadTile<kRows, W>(rows, queries, at.token, 0, shape);
    loadTile<C, W>(columns, keys, 0, 0, shape);
  }
  for (int token = 0; token < keys.tokens; token += C) {
    clear(s);
    for (int chunk = 0; chunk < at.chunks; ++chunk) {
      if (!single) {
        __syncthreads();  // the chunk before has been read
        loadTile<kRows, W>(rows, queries, at.token, chunk * W, shape);
        loadTile<C, W>(columns, keys, token, chunk * W, shape);
      }
      arrive();
      if (chunk == 0) loadTile<C, W>(slice, values, token, at.first, shape);
      addScores<Format, W, C>(s, rows, columns, shape.headDim - chunk * W);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = maximum.v[i];
#pragma unroll
      for (int j = 0; j < C / 8; ++j)
        for (int l = 2 * i; l < 2 * i + 2; ++l) {
          const int key = token + j * 8 + lane() % 4 * 2 + l % 2;
          s[j].v[l] = key < keys.tokens ? s[j].v[l] * (shape.scale * kLog2e) : -INFINITY;
          if constexpr (Mask::kOn) {
            if (mask.hides(at.n, at.token + firstRow() + lane() / 4 + 8 * i, key)) s[j].v[l] = kMaskedScore;
          }
          top = fmaxf(top, s[j].v[l]);
        }
      top = rowReduce(top, [](float a, float b) { return fmaxf(a, b); });
      const float correction = exp2f(maximum.v[i] - top);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < C / 8; ++j)
        for (int l = 2 * i; l < 2 * i + 2; ++l) sum += s[j].v[l] = exp2f(s[j].v[l] - top);
      denominator.v[i] = denominator.v[i] * correction + sum;
      maximum.v[i] = top;
#pragma unroll
      for (int j = 0; j < W / 8; ++j)
        for (int l = 2 * i; l < 2 * i + 2; ++l) result[j].v[l] *= correction;
    }
    arrive();  // the values; and the keys have been read
    if (single && token + C < keys.tokens) loadTile<C, W>(columns, keys, token + C, 0, shape);
    addProduct<Format, W, C>(result, s, slice, shape.headDim - at.first);
  }
  Vec<float, 2> factor;
  for (int i = 0; i < 2; ++i) {
    denominator.v[i] = rowReduce(denominator.v[i], [](float a, float b) { return a + b; });
    factor.v[i] = 1.0f / denominator.v[i];
    const int query = at.token + firstRow() + lane() / 4 + 8 * i;
    if (at.first == 0 && lane() % 4 == 0 && query < q.tokens) {
      float& total = element(lse, at.n, at.head * q.tokens + query);
      total = (maximum.v[i] + log2f(denominator.v[i])) * kLn2;
      if constexpr (Mask::kOn) {
        if (maximum.v[i] == kMaskedScore) total = kMaskedScore;
      }
    }
  }
  writeRows<Format, W>(y, at, shape, result, factor);
}

// ---- backward ----

// delta[n, head * tokens + i] = dy[i] y[i] of the head: a warp each.
template <class Format>
__global__ void __launch_bounds__(kThreads) narrowDeltaKernel(Heads y, Heads dy, Global<float> delta, Shape shape) {
  const int token = blockIdx.x * kWarps + threadIdx.x / 32, head = blockIdx.y, n = blockIdx.z;
  if (token >= y.tokens) return;  // the whole warp
  const Head a = y.of(n, head), b = dy.of(n, head);
  float sum = 0;
  for (int d = lane(); d < shape.headDim; d += 32)
    sum += unpack<Format>(a.data[a.start + int64_t(token) * a.ld + d]).v[0] *
           unpack<Format>(b.data[b.start + int64_t(token) * b.ld + d]).v[0];
  sum = warpSum(sum);
  if (lane() == 0) delta[(int64_t(n) * shape.heads + head) * y.tokens + token] = sum;
}

// What the backward pass knows of a query.
struct QueryStatistics {
  Rows<const float> lse;
  Global<const float> delta;
  int tokens, heads;
  __device__ float lseOf(const Place& at, int query) const { return element(lse, at.n, at.head * tokens + query); }
  __device__ float deltaOf(const Place& at, int query) const {
    return delta[(int64_t(at.n) * heads + at.head) * tokens + query];
  }
};

// The tiles of a backward kernel: two of rows, two of columns, and the columns' channels of the block's slice, which
// are the columns themselves where the head is one chunk.
template <int W>
struct Tiles {
  static constexpr size_t kBytes = (2 * kRows + 4 * kBackwardColumns<W>)*kTokenBytes<W>;
  Shared<uint32_t> rows[2], columns[2], slices[2];
  __device__ explicit Tiles(bool single) {
    constexpr int R = kRows * kPitch<W>, C = kBackwardColumns<W> * kPitch<W>;
    const auto all = dynamicShared<uint32_t>(0, 2 * R + 4 * C);
    for (int i = 0; i < 2; ++i) {
      rows[i] = all + i * R;
      columns[i] = all + (2 * R + i * C);
      slices[i] = single ? columns[i] : all + (2 * R + (2 + i) * C);
    }
  }
  // scores[i] = rows[i] columns[i]T. Afterwards the slices are there too.
  template <class Format>
  __device__ void scores(Vec<float, 4> (&s)[2][kBackwardColumns<W> / 8], const Place& at, const Head (&row)[2],
                         const Head (&column)[2], int token, const Shape& shape) const {
    constexpr int C = kBackwardColumns<W>;
    for (int i = 0; i < 2; ++i) clear(s[i]);
    for (int chunk = 0; chunk < at.chunks; ++chunk) {
      __syncthreads();  // what was there before has been read
#pragma unroll          // else the heads are put into memory to be indexed
      for (int i = 0; i < 2; ++i) {
        if (at.chunks > 1 || token == 0) loadTile<kRows, W>(rows[i], row[i], at.token, chunk * W, shape);
        loadTile<C, W>(columns[i], column[i], token, chunk * W, shape);
        if (at.chunks > 1 && chunk == 0) loadTile<C, W>(slices[i], column[i], token, at.first, shape);
      }
      arrive();
#pragma unroll
      for (int i = 0; i < 2; ++i) addScores<Format, W, C>(s[i], rows[i], columns[i], shape.headDim - chunk * W);
    }
  }
};

template <class Format, int W, class Mask>
__global__ void __launch_bounds__(kThreads, W == 64 ? 3 : 2)
    narrowQueryGradientKernel(Heads q, Heads k, Heads v, Heads dy, QueryStatistics statistics, Output dq, Shape shape,
                              Mask mask) {
  constexpr int C = kBackwardColumns<W>;
  const Place at = placeOf<W>(shape);
  const Tiles<W> tiles(at.chunks == 1);
  const Head rows[2] = {q.of(at.n, at.head), dy.of(at.n, at.head)};
  const Head columns[2] = {k.of(at.n, at.head), v.of(at.n, at.head)};
  Vec<float, 4> result[W / 8], s[2][C / 8];
  clear(result);
  Vec<float, 2> lse = {{0, 0}}, delta = {{0, 0}};
  for (int i = 0; i < 2; ++i) {
    const int query = at.token + firstRow() + lane() / 4 + 8 * i;
    if (query < q.tokens) {
      lse.v[i] = statistics.lseOf(at, query) * kLog2e;
      delta.v[i] = statistics.deltaOf(at, query);
    }
  }
  for (int token = 0; token < k.tokens; token += C) {
    tiles.template scores<Format>(s, at, rows, columns, token, shape);
#pragma unroll
    for (int j = 0; j < C / 8; ++j)
#pragma unroll
      for (int l = 0; l < 4; ++l) {
        const int key = token + j * 8 + lane() % 4 * 2 + l % 2;
        const bool inside = key < k.tokens;
        const float p = inside ? exp2f(s[0][j].v[l] * (shape.scale * kLog2e) - lse.v[l / 2]) : 0.0f;
        s[0][j].v[l] = shape.scale * p * (s[1][j].v[l] - delta.v[l / 2]);
        if constexpr (Mask::kOn) {
          if (mask.hides(at.n, at.token + firstRow() + lane() / 4 + 8 * (l / 2), key)) s[0][j].v[l] = 0;
        }
      }
    addProduct<Format, W, C>(result, s[0], tiles.slices[0], shape.headDim - at.first);
  }
  writeRows<Format, W>(dq, at, shape, result, {{1, 1}});
}

// With a mask, registers go before a second block on a multiprocessor: some would spill.
template <class Format, int W, class Mask>
__global__ void __launch_bounds__(kThreads, Mask::kOn ? 1 : 0)
    narrowKeyGradientKernel(Heads q, Heads k, Heads v, Heads dy, QueryStatistics statistics, Output dk, Output dv,
                            Shape shape, Mask mask) {
  constexpr int C = kBackwardColumns<W>;
  const Place at = placeOf<W>(shape);
  const Tiles<W> tiles(at.chunks == 1);
  const Head rows[2] = {k.of(at.n, at.head), v.of(at.n, at.head)};
  const Head columns[2] = {q.of(at.n, at.head), dy.of(at.n, at.head)};
  Vec<float, 4> resultK[W / 8], resultV[W / 8], s[2][C / 8];
  clear(resultK);
  clear(resultV);
  for (int token = 0; token < q.tokens; token += C) {
    tiles.template scores<Format>(s, at, rows, columns, token, shape);
#pragma unroll
    for (int j = 0; j < C / 8; ++j)
#pragma unroll
      for (int l = 0; l < 2; ++l) {
        const int query = token + j * 8 + lane() % 4 * 2 + l;
        const bool inside = query < q.tokens;
        const float lse = inside ? statistics.lseOf(at, query) * kLog2e : 0.0f;
        const float delta = inside ? statistics.deltaOf(at, query) : 0.0f;
        for (int m = l; m < 4; m += 2) {
          const float p = inside ? exp2f(s[0][j].v[m] * (shape.scale * kLog2e) - lse) : 0.0f;
          s[0][j].v[m] = p;
          s[1][j].v[m] = shape.scale * p * (s[1][j].v[m] - delta);
          if constexpr (Mask::kOn) {
            if (mask.hides(at.n, query, at.token + firstRow() + lane() / 4 + 8 * (m / 2))) {
              s[0][j].v[m] = mask.weight(statistics.lseOf(at, query));
              s[1][j].v[m] = 0;
            }
          }
        }
      }
    addProduct<Format, W, C>(resultV, s[0], tiles.slices[1], shape.headDim - at.first);
    addProduct<Format, W, C>(resultK, s[1], tiles.slices[0], shape.headDim - at.first);
  }
  writeRows<Format, W>(dk, at, shape, resultK, {{1, 1}});
  writeRows<Format, W>(dv, at, shape, resultV, {{1, 1}});
}

// ---- launchers ----

bool vectors(std::initializer_list<const Tensor*> tensors, std::initializer_list<int> distances) {
  for (const Tensor* t : tensors)
    if (uintptr_t(t->data) % 16 || t->ld % 8 || t->c % 8) return false;
  for (int distance : distances)
    if (distance % 8) return false;
  return true;
}

int64_t extentOf(const Tensor& t) { return t.rows() ? (t.rows() - 1) * t.ld + t.c : 0; }

template <class T>
T headsOf(const Tensor& t, int distance, const Shape& shape) {
  if (t.dtype != DType::f16 && t.dtype != DType::bf16)
    throw BackendError(ErrorCode::internal, "attention: operands of different widths");
  T heads = {};
  heads.data = {static_cast<uint16_t*>(t.data), extentOf(t)};
  if (shape.vectors) heads.words = {static_cast<uint32_t*>(t.data), extentOf(t) / 2};
  heads.ld = t.ld;
  heads.tokens = pixels(t);
  heads.distance = distance;
  return heads;
}

template <int W>
dim3 gridOf(const Tensor& tokens, const AttentionShape& s) {
  return dim3(unsigned(ceilDiv(pixels(tokens), kRows) * ceilDiv(s.headDim, W)), unsigned(s.heads), unsigned(tokens.n));
}

template <class Format, int W>
void forward(CudaDevice& device, const Attention& op) {
  const AttentionShape& s = op.shape;
  const Shape shape = {s.headDim, s.heads, s.scale,
                       vectors({&op.q, &op.k, &op.v, &op.y}, {s.headDim, s.qHead, s.kHead, s.vHead})};
  withMask(op.mask, [&]<class Mask>(const Mask& mask) {
    launch<narrowAttentionKernel<Format, W, Mask>>(
        gridOf<W>(op.q, s), kThreads, (kRows + 2 * kForwardColumns) * kTokenBytes<W>, device.stream(),
        headsOf<Heads>(op.q, s.qHead, shape), headsOf<Heads>(op.k, s.kHead, shape),
        headsOf<Heads>(op.v, s.vHead, shape), headsOf<Output>(op.y, s.headDim, shape), out(op.lse), shape, mask);
  });
}

template <class Format, int W>
void backward(CudaDevice& device, const AttentionBackward& op, void* scratch) {
  const AttentionShape& s = op.shape;
  const Shape shape = {
      s.headDim, s.heads, s.scale,
      vectors({&op.q, &op.k, &op.v, &op.y, &op.dy, &op.dq, &op.dk, &op.dv}, {s.headDim, s.qHead, s.kHead, s.vHead})};
  const int queries = pixels(op.q);
  const Global<float> delta = scratchOf<float>(scratch, 0, int64_t(op.q.n) * s.heads * queries);
  const auto q = headsOf<Heads>(op.q, s.qHead, shape), k = headsOf<Heads>(op.k, s.kHead, shape);
  const auto v = headsOf<Heads>(op.v, s.vHead, shape), y = headsOf<Heads>(op.y, s.headDim, shape);
  const auto dy = headsOf<Heads>(op.dy, s.headDim, shape);
  const QueryStatistics statistics = {in(op.lse), delta, queries, s.heads};
  launch<narrowDeltaKernel<Format>>(dim3(unsigned(ceilDiv(queries, kWarps)), unsigned(s.heads), unsigned(op.q.n)),
                                    kThreads, 0, device.stream(), y, dy, delta, shape);
  withMask(op.mask, [&]<class Mask>(const Mask& mask) {
    launch<narrowQueryGradientKernel<Format, W, Mask>>(gridOf<W>(op.q, s), kThreads, Tiles<W>::kBytes, device.stream(),
                                                       q, k, v, dy, statistics, headsOf<Output>(op.dq, s.qHead, shape),
                                                       shape, mask);
    launch<narrowKeyGradientKernel<Format, W, Mask>>(gridOf<W>(op.k, s), kThreads, Tiles<W>::kBytes, device.stream(), q,
                                                     k, v, dy, statistics, headsOf<Output>(op.dk, s.kHead, shape),
                                                     headsOf<Output>(op.dv, s.vHead, shape), shape, mask);
  });
}

// f<Format, W>() for the format of the operands and the channels of a head.
template <class F>
void choose(const Tensor& q, int headDim, const F& f) {
  if (q.dtype == DType::f16)
    headDim <= 64 ? f.template operator()<Half, 64>() : f.template operator()<Half, 128>();
  else
    headDim <= 64 ? f.template operator()<Bfloat16, 64>() : f.template operator()<Bfloat16, 128>();
}

}  // namespace

void runNarrow(CudaDevice& device, const Attention& op) {
  choose(op.q, op.shape.headDim, [&]<class Format, int W>() { forward<Format, W>(device, op); });
}

void runNarrow(CudaDevice& device, const AttentionBackward& op, void* scratch) {
  choose(op.q, op.shape.headDim, [&]<class Format, int W>() { backward<Format, W>(device, op, scratch); });
}

}  // namespace ddpm::cuda
