// Linear attention (Shen et al. 2021), and the tokens that are put before others.
//
// First a task for each head of each sample makes the matrix that the keys and values are summed up in; then tasks of
// some rows multiply by it. With p = softmax of k over the tokens, s = that of q over a head's channels:
//
//     forward    context = pᵀ v;  y = q' context, q' = scale s or scale q
//     backward   dContext = q'ᵀ dy;  dv = p dContext;  dk = p (v dContextᵀ - r), r = sum over channels of context
//                dContext, as sum_tokens p dp is;  dq = scale dy contextᵀ, and with s: s (that - sum_channels y dy)
#include <math.h>

#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

constexpr int kRows = 4;       // rows that share a load of the matrix
constexpr int kTaskRows = 64;  // of a task of the second pass

int64_t tokensOf(const Tensor& t) { return int64_t(t.h) * t.w; }

// One head of one sample: row i begins at data + i*ld.
struct Head {
  float* data;
  int64_t ld, dim, rows;
  Head(const Tensor& t, int64_t n, int64_t head, int64_t dim)
      : data(t.f32() + n * tokensOf(t) * t.ld + head * dim), ld(t.ld), dim(dim), rows(tokensOf(t)) {}
  float* row(int64_t i) const { return data + i * ld; }
};

// out = exp(row i of k - lse).
struct Weights {
  Head k;
  const float* lse;
  DDPM_INLINE void operator()(int64_t i, float* out) const {
    const float* row = k.row(i);
    forChannels(k.dim, [&](int64_t c, auto part)
                           DDPM_LAMBDA_INLINE { part.store(out + c, exp(part.load(row + c) - part.load(lse + c))); });
  }
};

// out = scale q, or scale exp(q - lse of its row).
struct Queries {
  Head q;
  Tensor lse;
  int64_t n, head;
  float scale;
  DDPM_INLINE void operator()(int64_t i, float* out) const {
    const float* row = q.row(i);
    const float shift = lse ? lse.f32()[(n * q.rows + i) * lse.ld + head] : 0.0f;
    forChannels(q.dim, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
      const vf x = part.load(row + c);
      part.store(out + c, (lse ? exp(x - shift) : x) * scale);
    });
  }
};

struct Plain {
  Head x;
  DDPM_INLINE void operator()(int64_t i, float* out) const {
    const float* row = x.row(i);
    forChannels(x.dim, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE { part.store(out + c, part.load(row + c)); });
  }
};

// sum[d][e] = sum over the rows of left[d] right[e]; room: kRows * dim.
template <class Left>
void outerSums(const Left& left, const Head& right, float* sum, float* room) {
  const int64_t dim = right.dim;
  for (int64_t i = 0; i < dim * dim; ++i) sum[i] = 0.0f;
  for (int64_t block = 0; block < right.rows; block += kRows) {
    const int count = right.rows - block < kRows ? int(right.rows - block) : kRows;
    for (int r = 0; r < count; ++r) left(block + r, room + r * dim);
    for (int64_t d = 0; d < dim; ++d)
      forChannels(dim, [&](int64_t e, auto part) DDPM_LAMBDA_INLINE {
        vf total = part.load(sum + d * dim + e);
        for (int r = 0; r < count; ++r) total += part.load(right.row(block + r) + e) * room[r * dim + d];
        part.store(sum + d * dim + e, total);
      });
  }
}

// out(row, e, part, sum over d of left[d] matrix[d][e]) for the rows [begin, end); room as above.
template <class Left, class Out>
void rowProducts(const Left& left, const float* matrix, int64_t dim, int64_t begin, int64_t end, float* room,
                 const Out& out) {
  for (int64_t block = begin; block < end; block += kRows) {
    const int count = end - block < kRows ? int(end - block) : kRows;
    for (int r = 0; r < count; ++r) left(block + r, room + r * dim);
    forChannels(dim, [&](int64_t e, auto part) DDPM_LAMBDA_INLINE {
      vf total[kRows];
      for (int r = 0; r < kRows; ++r) total[r] = zero();
      for (int64_t d = 0; d < dim; ++d) {
        const vf m = part.load(matrix + d * dim + e);
        for (int r = 0; r < count; ++r) total[r] += m * room[r * dim + d];
      }
      for (int r = 0; r < count; ++r) out(block + r, e, part, total[r]);
    });
  }
}

void transpose(const float* from, float* to, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t e = 0; e < dim; ++e) to[e * dim + d] = from[d * dim + e];
}

// lse[c] = log of the sum over the rows of exp(k[c]).
void columnLse(const Head& k, float* lse) {
  forChannels(k.dim, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
    vf most = part.load(k.data + c), sum = zero();
    for (int64_t i = 1; i < k.rows; ++i) most = max(most, part.load(k.row(i) + c));
    for (int64_t i = 0; i < k.rows; ++i) sum += exp(part.load(k.row(i) + c) - most);
    float total[kWidth];
    store(total, sum);
    part.store(lse + c, most);
    for (int64_t j = 0; j < kWidth && c + j < k.dim; ++j) lse[c + j] += logf(total[j]);
  });
}

float rowLse(const float* row, int64_t dim) {
  float most = row[0];
  for (int64_t c = 1; c < dim; ++c) most = row[c] > most ? row[c] : most;
  vf sum = zero();
  forChannels(dim, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE { sum += part.keep(exp(part.load(row + c) - most)); });
  return most + logf(DDPM_ISA::sum(sum));
}

// body(n, head, begin, end, thread): some rows of each head of each sample.
template <class Body>
void forHeadRows(CpuDevice& device, int64_t samples, int64_t heads, int64_t rows, const Body& body) {
  const int64_t blocks = (rows + kTaskRows - 1) / kTaskRows;
  device.pool.parallelFor(samples * heads * blocks, [&](int64_t task, int thread) {
    const int64_t block = task % blocks, head = task / blocks;
    const int64_t begin = block * kTaskRows, end = begin + kTaskRows < rows ? begin + kTaskRows : rows;
    body(head / heads, head % heads, begin, end, thread);
  });
}

}  // namespace

size_t scratch(const CpuDevice& device, const LinearAttention& op) {
  return size_t(device.pool.threads()) * kRows * op.shape.headDim * sizeof(float);
}

void run(CpuDevice& device, const LinearAttention& op, void* memory) {
  const int64_t heads = op.shape.heads, dim = op.shape.headDim;
  const auto room = [&](int thread) { return static_cast<float*>(memory) + thread * kRows * dim; };
  const auto contextOf = [&](int64_t n, int64_t head) {
    return op.context.f32() + n * op.context.ld + head * dim * dim;
  };
  device.pool.parallelFor(op.q.n * heads, [&](int64_t task, int thread) {
    const int64_t n = task / heads, head = task % heads;
    const Head k(op.k, n, head, dim), v(op.v, n, head, dim);
    float* lse = op.keyLse.f32() + n * op.keyLse.ld + head * dim;
    columnLse(k, lse);
    outerSums(Weights{k, lse}, v, contextOf(n, head), room(thread));
  });
  forHeadRows(
      device, op.q.n, heads, tokensOf(op.q), [&](int64_t n, int64_t head, int64_t begin, int64_t end, int thread) {
        const Head q(op.q, n, head, dim), y(op.y, n, head, dim);
        for (int64_t i = begin; op.queryLse && i < end; ++i)
          op.queryLse.f32()[(n * q.rows + i) * op.queryLse.ld + head] = rowLse(q.row(i), dim);
        rowProducts(Queries{q, op.queryLse, n, head, op.shape.scale}, contextOf(n, head), dim, begin, end, room(thread),
                    [&](int64_t i, int64_t e, auto part, vf sum) DDPM_LAMBDA_INLINE { part.store(y.row(i) + e, sum); });
      });
}

namespace {

// Of a head: contextᵀ, dContext and its transpose, r.
struct BackwardRoom {
  float *rows, *matrices;
  int64_t dim, perHead;
  BackwardRoom(const CpuDevice& device, const LinearAttentionBackward& op, void* base, size_t* bytes = nullptr) {
    dim = op.shape.headDim;
    perHead = 3 * dim * dim + dim;
    ScratchCutter cut(base);
    rows = cut.take<float>(int64_t(device.pool.threads()) * kRows * dim);
    matrices = cut.take<float>(int64_t(op.q.n) * op.shape.heads * perHead);
    if (bytes) *bytes = cut.bytes();
  }
  float* row(int thread) const { return rows + thread * kRows * dim; }
  float* contextT(int64_t head) const { return matrices + head * perHead; }
  float* dContext(int64_t head) const { return contextT(head) + dim * dim; }
  float* dContextT(int64_t head) const { return dContext(head) + dim * dim; }
  float* r(int64_t head) const { return dContextT(head) + dim * dim; }
};

}  // namespace

size_t scratch(const CpuDevice& device, const LinearAttentionBackward& op) {
  size_t bytes;
  BackwardRoom(device, op, nullptr, &bytes);
  return bytes;
}

void run(CpuDevice& device, const LinearAttentionBackward& op, void* memory) {
  const int64_t heads = op.shape.heads, dim = op.shape.headDim;
  const float scale = op.shape.scale;
  const BackwardRoom room(device, op, memory);
  device.pool.parallelFor(op.q.n * heads, [&](int64_t task, int thread) {
    const int64_t n = task / heads, head = task % heads;
    const Head q(op.q, n, head, dim), dy(op.dy, n, head, dim);
    const float* context = op.context.f32() + n * op.context.ld + head * dim * dim;
    float *d = room.dContext(task), *r = room.r(task);
    transpose(context, room.contextT(task), dim);
    outerSums(Queries{q, op.queryLse, n, head, scale}, dy, d, room.row(thread));
    transpose(d, room.dContextT(task), dim);
    for (int64_t i = 0; i < dim; ++i) {
      vf sum = zero();
      forChannels(dim, [&](int64_t e, auto part) DDPM_LAMBDA_INLINE {
        sum += part.load(context + i * dim + e) * part.load(d + i * dim + e);
      });
      r[i] = DDPM_ISA::sum(sum);
    }
  });
  forHeadRows(
      device, op.q.n, heads, tokensOf(op.q), [&](int64_t n, int64_t head, int64_t begin, int64_t end, int thread) {
        const Head q(op.q, n, head, dim), y(op.y, n, head, dim), dy(op.dy, n, head, dim), dq(op.dq, n, head, dim);
        rowProducts(Plain{dy}, room.contextT(n * heads + head), dim, begin, end, room.row(thread),
                    [&](int64_t i, int64_t c, auto part, vf sum)
                        DDPM_LAMBDA_INLINE { part.store(dq.row(i) + c, sum * scale); });
        for (int64_t i = begin; op.queryLse && i < end; ++i) {
          const float shift = op.queryLse.f32()[(n * q.rows + i) * op.queryLse.ld + head];
          vf sum = zero();
          forChannels(dim, [&](int64_t c, auto part)
                               DDPM_LAMBDA_INLINE { sum += part.load(y.row(i) + c) * part.load(dy.row(i) + c); });
          const float all = DDPM_ISA::sum(sum);
          forChannels(dim, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
            part.store(dq.row(i) + c, exp(part.load(q.row(i) + c) - shift) * (part.load(dq.row(i) + c) - all));
          });
        }
      });
  forHeadRows(
      device, op.k.n, heads, tokensOf(op.k), [&](int64_t n, int64_t head, int64_t begin, int64_t end, int thread) {
        const Head k(op.k, n, head, dim), v(op.v, n, head, dim), dk(op.dk, n, head, dim), dv(op.dv, n, head, dim);
        const float* lse = op.keyLse.f32() + n * op.keyLse.ld + head * dim;
        const float* r = room.r(n * heads + head);
        rowProducts(Weights{k, lse}, room.dContext(n * heads + head), dim, begin, end, room.row(thread),
                    [&](int64_t i, int64_t e, auto part, vf sum)
                        DDPM_LAMBDA_INLINE { part.store(dv.row(i) + e, sum); });
        rowProducts(Plain{v}, room.dContextT(n * heads + head), dim, begin, end, room.row(thread),
                    [&](int64_t i, int64_t c, auto part, vf sum) DDPM_LAMBDA_INLINE {
                      const vf p = exp(part.load(k.row(i) + c) - part.load(lse + c));
                      part.store(dk.row(i) + c, p * (sum - part.load(r + c)));
                    });
      });
}

// ---- tokens before others -----------------------------------------------------------------------------------------

void run(CpuDevice& device, const PrependTokens& op, void*) {
  const int64_t c = op.x.c, count = op.table.c / c, tokens = tokensOf(op.y), others = tokens - count;
  const float* table = op.table.f32() + op.row * int64_t(op.table.ld);
  device.pool.parallelRange(op.y.rows(), kElementsPerTask / 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / tokens, token = row % tokens;
      const float* from = token < count ? table + token * c : op.x.f32() + (n * others + token - count) * op.x.ld;
      float* to = op.y.f32() + row * op.y.ld;
      forChannels(c, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE { part.store(to + i, part.load(from + i)); });
    }
  });
}

void run(CpuDevice& device, const PrependTokensBackward& op, void*) {
  const int64_t c = op.dx.c, count = op.dTable.c / c, others = tokensOf(op.dx), tokens = others + count;
  device.pool.parallelRange(op.dx.rows(), kElementsPerTask / 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = op.dy.f32() + (row / others * tokens + count + row % others) * op.dy.ld;
      float* to = op.dx.f32() + row * op.dx.ld;
      forChannels(c, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE { part.store(to + i, part.load(from + i)); });
    }
  });
  for (int64_t token = 0; token < count; ++token) {
    float* to = op.dTable.f32() + op.row * int64_t(op.dTable.ld) + token * c;
    forChannels(c, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE {
      vf sum = part.load(to + i);
      for (int64_t n = 0; n < op.dy.n; ++n) sum += part.load(op.dy.f32() + (n * tokens + token) * op.dy.ld + i);
      part.store(to + i, sum);
    });
  }
}

}  // namespace ddpm::cpu::DDPM_ISA
