// Softmax attention in blocks (Dao et al. 2022, FlashAttention; Rabe & Staats 2021): the scores of kBlock queries by
// kSuper keys stand in L2, the softmax is carried on from one block of keys to the next.
//
// The operands that a product's inner loop reads as vectors are packed into panels first: once a head, for some heads
// at a time, so that scratch memory doesn't grow with the batch. A panel is [depth][kCols], zero-padded at its right.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

// ---- product of a strided matrix and panels -----------------------------------------------------------------------

// A tile of kRows x kCols accumulators fills the registers, all but those for one row of B and one element of A.
constexpr int kRows = kWidth == 16 ? 14 : 6;
constexpr int kCols = 2 * kWidth;
constexpr int kBlock = kWidth == 16 ? 56 : 48;  // queries (or, in the backward pass, keys) a task: whole tiles
constexpr int kSuper = 288;                     // keys whose scores are held at once; a panel of that depth stays in L1
constexpr int kScoreLd = kSuper + 16;           // rows of scores begin in different sets of L1

struct Matrix {
  const float* data;
  int64_t row, step;  // distances from one row to the next and from one element of the depth to the next
};

// out[r][0..cols) = or += sum_k a[r][k] * panel[k][...], cols <= kCols.
template <int Rows>
inline void tile(int64_t depth, Matrix a, const float* panel, float* out, int64_t ld, int cols, bool add) {
  vf sums[Rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = zero();
  const float* at = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    const vf b0 = load(panel), b1 = load(panel + kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const vf x = broadcast(at[r * a.row]);
      sums[r][0] += x * b0;
      sums[r][1] += x * b1;
    }
    panel += kCols;
    at += a.step;
  }
  if (cols == kCols) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      float* y = out + r * ld;
      store(y, add ? load(y) + sums[r][0] : sums[r][0]);
      store(y + kWidth, add ? load(y + kWidth) + sums[r][1] : sums[r][1]);
    }
    return;
  }
  const int first = cols < kWidth ? cols : kWidth, second = cols - first;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    float* y = out + r * ld;
    storePart(y, add ? loadPart(y, first) + sums[r][0] : sums[r][0], first);
    if (second > 0) storePart(y + kWidth, add ? loadPart(y + kWidth, second) + sums[r][1] : sums[r][1], second);
  }
}

template <int Rows>
inline void lastTile(int64_t rows, int64_t depth, Matrix a, const float* panel, float* out, int64_t ld, int cols,
                     bool add) {
  if (rows == Rows) return tile<Rows>(depth, a, panel, out, ld, cols, add);
  if constexpr (Rows > 1) lastTile<Rows - 1>(rows, depth, a, panel, out, ld, cols, add);
}

// out[rows][cols] = (or += if `add`) a[rows][depth] * b[depth][cols], b in panels `panelStride` apart.
void multiply(int64_t rows, int64_t cols, int64_t depth, Matrix a, const float* b, int64_t panelStride, float* out,
              int64_t ld, bool add) {
  for (int64_t k = 0; k < depth; k += kSuper) {
    const int64_t part = depth - k < kSuper ? depth - k : kSuper;
    for (int64_t j = 0; j < cols; j += kCols) {
      const float* panel = b + j / kCols * panelStride + k * kCols;
      const int width = cols - j < kCols ? int(cols - j) : kCols;
      int64_t r = 0;
      Matrix at = {a.data + k * a.step, a.row, a.step};
      for (; r + kRows <= rows; r += kRows, at.data += kRows * a.row)
        tile<kRows>(part, at, panel, out + r * ld + j, ld, width, add);
      if (r < rows) lastTile<kRows - 1>(rows - r, part, at, panel, out + r * ld + j, ld, width, add);
    }
    add = true;
  }
}

// ---- packing ------------------------------------------------------------------------------------------------------

inline int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Tokens [begin, end) of a head as the depth of panels: to[c / kCols][token][c % kCols] = from[token][c]; panels of all
// tokens.
void packRows(const float* from, int64_t ld, int64_t tokens, int64_t begin, int64_t end, int64_t dim, float scale,
              float* to) {
  const vf s = broadcast(scale);
  for (int64_t j = 0; j < dim; j += kCols) {
    float* panel = to + j / kCols * tokens * kCols;
    for (int64_t t = begin; t < end; ++t)
      for (int half = 0; half < 2; ++half) {
        const int64_t c = j + half * kWidth, left = dim - c;
        const float* x = from + t * ld + c;
        store(panel + t * kCols + half * kWidth, left >= kWidth ? load(x) * s
                                                 : left > 0     ? loadPart(x, int(left)) * s
                                                                : zero());
      }
  }
}

// Tokens [begin, end) of a head as the columns of panels: to[token / kCols][c][token % kCols] = from[token][c]. begin
// is a multiple of kCols.
void packColumns(const float* from, int64_t ld, int64_t begin, int64_t end, int64_t dim, float scale, float* to) {
  for (int64_t t = begin; t < end; t += kCols) {
    float* panel = to + t * dim;
    const int64_t columns = end - t < kCols ? end - t : kCols;
    for (int64_t i = 0; i < kCols; ++i) {
      const float* x = from + (t + i) * ld;
      if (i < columns)
        for (int64_t c = 0; c < dim; ++c) panel[c * kCols + i] = x[c] * scale;
      else
        for (int64_t c = 0; c < dim; ++c) panel[c * kCols + i] = 0.0f;
    }
  }
}

// ---- what forward and backward share ------------------------------------------------------------------------------

// One head of one sample.
struct Head {
  int64_t n, head;
};

float* headData(const Tensor& t, Head h, int64_t tokens, int64_t headDistance) {
  return t.f32() + h.n * tokens * t.ld + h.head * headDistance;
}

// How the heads of all samples are worked off: `wave` of them at a time, packed first and then used by all threads.
// About 1 MiB of packed data, but at least enough blocks to keep the threads busy.
struct Waves {
  int64_t queries, keys, dim, heads, total, wave;
  Waves(const Tensor& q, const Tensor& k, const AttentionShape& shape, int threads, int64_t floatsPerHead)
      : queries(int64_t(q.h) * q.w),
        keys(int64_t(k.h) * k.w),
        dim(shape.headDim),
        heads(shape.heads),
        total(q.n * heads) {
    const int64_t fit = (int64_t(1) << 20) / int64_t(sizeof(float)) / floatsPerHead;
    const int64_t blocks = (queries + kBlock - 1) / kBlock, busy = (2 * threads + blocks - 1) / blocks;
    wave = fit > busy ? fit : busy;
    if (wave > total) wave = total;
  }
  Head at(int64_t i) const { return {i / heads, i % heads}; }
};

// parallelFor over `count` heads and pieces [begin, end) of `length` tokens: body(head of the wave, begin, end,
// thread).
template <class Body>
void forBlocks(CpuDevice& device, int64_t count, int64_t length, int64_t block, const Body& body) {
  const int64_t blocks = (length + block - 1) / block;
  device.pool.parallelFor(count * blocks, [&](int64_t task, int thread) {
    const int64_t begin = task % blocks * block;
    body(task / blocks, begin, begin + block < length ? begin + block : length, thread);
  });
}

constexpr int kPackBlock = 4 * 16;  // tokens a packing task; a multiple of kCols
static_assert(kPackBlock % kCols == 0 && kSuper % kCols == 0);

}  // namespace

// ---- backward -----------------------------------------------------------------------------------------------------
//
// With p = exp(scale q kᵀ - lse), D = sum over channels of dy*y (Dao et al. 2022, appendix B.4):
//   dv = pᵀ dy;  dp = dy vᵀ;  ds = p*(dp - D);  dq = scale ds k;  dk = scale dsᵀ q.
// p and ds of kSuper queries by kSuper keys are held at a time. Threads first share the queries, for p, ds and dq, and
// then the keys, for dv and dk: each product is computed once, and each sum in one order.

namespace {

struct BackwardScratch {
  int64_t columnsK, rowsK, rowsQ;              // floats a head of each kind of panel
  float *keyColumns, *keyRows, *valueColumns;  // of scale*k, scale*k, v
  float *queryRows, *dyRows;                   // of scale*q, dy
  float *p, *ds;                               // {wave, kSuper or less, kScoreLd}
  float* dots;                                 // D, {wave, queries}
  int64_t square;                              // floats a head of p and of ds
  size_t bytes;

  static int64_t columnSize(int64_t tokens, int64_t dim) { return roundUp(tokens, kCols) * dim; }
  static int64_t rowSize(int64_t tokens, int64_t dim) { return tokens * roundUp(dim, kCols); }
  static int64_t squareSize(int64_t queries) { return (queries < kSuper ? queries : kSuper) * kScoreLd; }
  static int64_t headSize(const AttentionBackward& op) {
    const int64_t queries = int64_t(op.q.h) * op.q.w, keys = int64_t(op.k.h) * op.k.w, dim = op.shape.headDim;
    return 2 * columnSize(keys, dim) + rowSize(keys, dim) + 2 * rowSize(queries, dim) + 2 * squareSize(queries);
  }

  BackwardScratch(const Waves& w, void* base)
      : columnsK(columnSize(w.keys, w.dim)),
        rowsK(rowSize(w.keys, w.dim)),
        rowsQ(rowSize(w.queries, w.dim)),
        square(squareSize(w.queries)) {
    ScratchCutter cut(base);
    keyColumns = cut.take<float>(w.wave * columnsK);
    keyRows = cut.take<float>(w.wave * rowsK);
    valueColumns = cut.take<float>(w.wave * columnsK);
    queryRows = cut.take<float>(w.wave * rowsQ);
    dyRows = cut.take<float>(w.wave * rowsQ);
    p = cut.take<float>(w.wave * square);
    ds = cut.take<float>(w.wave * square);
    dots = cut.take<float>(w.wave * w.queries);
    bytes = cut.bytes();
  }
};

float dot(const float* a, const float* b, int64_t count) {
  vf total = zero();
  forChannels(count, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE { total += part.load(a + i) * part.load(b + i); });
  return sum(total);
}

}  // namespace

size_t scratch(const CpuDevice& device, const AttentionBackward& op) {
  return BackwardScratch(Waves(op.q, op.k, op.shape, device.pool.threads(), BackwardScratch::headSize(op)), nullptr)
      .bytes;
}

void run(CpuDevice& device, const AttentionBackward& op, void* memory) {
  const AttentionShape& shape = op.shape;
  const Waves w(op.q, op.k, shape, device.pool.threads(), BackwardScratch::headSize(op));
  const BackwardScratch s(w, memory);
  const int64_t dim = w.dim;

  for (int64_t first = 0; first < w.total; first += w.wave) {
    const int64_t count = w.total - first < w.wave ? w.total - first : w.wave;

    forBlocks(device, count, w.keys, kPackBlock, [&](int64_t i, int64_t begin, int64_t end, int) {
      const Head h = w.at(first + i);
      const float *k = headData(op.k, h, w.keys, shape.kHead), *v = headData(op.v, h, w.keys, shape.vHead);
      packColumns(k, op.k.ld, begin, end, dim, shape.scale, s.keyColumns + i * s.columnsK);
      packRows(k, op.k.ld, w.keys, begin, end, dim, shape.scale, s.keyRows + i * s.rowsK);
      packColumns(v, op.v.ld, begin, end, dim, 1.0f, s.valueColumns + i * s.columnsK);
    });
    forBlocks(device, count, w.queries, kPackBlock, [&](int64_t i, int64_t begin, int64_t end, int) {
      const Head h = w.at(first + i);
      const float *q = headData(op.q, h, w.queries, shape.qHead), *y = headData(op.y, h, w.queries, dim);
      const float* dy = headData(op.dy, h, w.queries, dim);
      packRows(q, op.q.ld, w.queries, begin, end, dim, shape.scale, s.queryRows + i * s.rowsQ);
      packRows(dy, op.dy.ld, w.queries, begin, end, dim, 1.0f, s.dyRows + i * s.rowsQ);
      for (int64_t t = begin; t < end; ++t) s.dots[i * w.queries + t] = dot(dy + t * op.dy.ld, y + t * op.y.ld, dim);
    });

    for (int64_t query = 0; query < w.queries; query += kSuper) {
      const int64_t queries = w.queries - query < kSuper ? w.queries - query : kSuper;
      for (int64_t key = 0; key < w.keys; key += kSuper) {
        const int64_t keys = w.keys - key < kSuper ? w.keys - key : kSuper;

        forBlocks(device, count, queries, kBlock, [&](int64_t i, int64_t begin, int64_t end, int) {
          const Head h = w.at(first + i);
          const int64_t rows = end - begin, row = query + begin;
          float *p = s.p + i * s.square + begin * kScoreLd, *ds = s.ds + i * s.square + begin * kScoreLd;
          const float* q = headData(op.q, h, w.queries, shape.qHead) + row * op.q.ld;
          const float* dy = headData(op.dy, h, w.queries, dim) + row * op.dy.ld;
          multiply(rows, keys, dim, {q, op.q.ld, 1}, s.keyColumns + i * s.columnsK + key * dim, dim * kCols, p,
                   kScoreLd, false);
          multiply(rows, keys, dim, {dy, op.dy.ld, 1}, s.valueColumns + i * s.columnsK + key * dim, dim * kCols, ds,
                   kScoreLd, false);
          const float* lse = op.lse.f32() + h.n * op.lse.ld + h.head * w.queries + row;
          for (int64_t r = 0; r < rows; ++r) {
            const vf shift = broadcast(lse[r]), d = broadcast(s.dots[i * w.queries + row + r]);
            float *pRow = p + r * kScoreLd, *dsRow = ds + r * kScoreLd;
            forChannels(keys, [=](int64_t j, auto part) {
              const vf e = expClamped(part.load(pRow + j) - shift);
              part.store(pRow + j, e);
              part.store(dsRow + j, e * (part.load(dsRow + j) - d));
            });
          }
          float* dq = headData(op.dq, h, w.queries, shape.qHead) + row * op.dq.ld;
          multiply(rows, dim, keys, {ds, kScoreLd, 1}, s.keyRows + i * s.rowsK + key * kCols, w.keys * kCols, dq,
                   op.dq.ld, key > 0);
        });

        forBlocks(device, count, keys, kBlock, [&](int64_t i, int64_t begin, int64_t end, int) {
          const Head h = w.at(first + i);
          const float *p = s.p + i * s.square + begin, *ds = s.ds + i * s.square + begin;
          float* dv = headData(op.dv, h, w.keys, shape.vHead) + (key + begin) * op.dv.ld;
          float* dk = headData(op.dk, h, w.keys, shape.kHead) + (key + begin) * op.dk.ld;
          multiply(end - begin, dim, queries, {p, 1, kScoreLd}, s.dyRows + i * s.rowsQ + query * kCols,
                   w.queries * kCols, dv, op.dv.ld, query > 0);
          multiply(end - begin, dim, queries, {ds, 1, kScoreLd}, s.queryRows + i * s.rowsQ + query * kCols,
                   w.queries * kCols, dk, op.dk.ld, query > 0);
        });
      }
    }
  }
}

}  // namespace ddpm::cpu::DDPM_ISA
