// What the products of attention are made of. Tokens lie along the vectors, so that what belongs to a token (maximum,
// sum, factor) is one vector for many tokens, and the other operand's elements are broadcast.
//
//   panel    [depth][kCols]: kCols tokens as columns, zeros for those that are not there
//   rows     [chunk][token][kChunk]: tokens as they are, their channels in chunks of kChunk
//
// Every element of a product is one chain of multiply-adds in the order of the depth, whatever the tile it falls in.
#pragma once
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

// A tile of kRows x kCols accumulators fills the registers, all but those for one row of B and one element of A.
constexpr int kRows = kWidth == 16 ? 14 : 6;
constexpr int kCols = 2 * kWidth;
constexpr int kChunk = 64;
constexpr int kKeys = 128;  // a block: the weights of one panel and the tiles of a product stay in L1
constexpr float kLog2e = 1.44269504f;

template <class T>
constexpr T minOf(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T maxOf(T a, T b) {
  return a > b ? a : b;
}
template <class T>
constexpr T ceilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// ---- tiles --------------------------------------------------------------------------------------------------------

// `count` rows are cut into pieces of kRows or less, which differ by one at most.
struct Pieces {
  int count, pieces;
  explicit Pieces(int64_t n) : count(int(n)), pieces(int((n + kRows - 1) / kRows)) {}
  int begin(int piece) const { return count * piece / pieces; }
  int size(int piece) const { return begin(piece + 1) - begin(piece); }
};

// Calls body.operator()<M>() for M == rows, 1 <= rows <= kRows.
template <int M = kRows, class Body>
DDPM_INLINE void withTileRows(int rows, const Body& body) {
  if constexpr (M > 1) {
    if (rows < M) return withTileRows<M - 1>(rows, body);
  }
  body.template operator()<M>();
}

// sums[r][v] += sum over k of a[r * RowStep + k * DepthStep] * panel[k][v]
template <int RowStep, int DepthStep, int Rows, int Vectors>
DDPM_INLINE void multiplyAdd(vf (&sums)[Rows][Vectors], int64_t depth, const float* a, const float* panel) {
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    vf b[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) b[v] = load(panel + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const vf x = broadcast(a[r * RowStep]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sums[r][v] = x * b[v] + sums[r][v];
    }
    panel += kCols;
    a += DepthStep;
  }
}

// scores[r][..] = rows r of the keys (or values) times the panel; `most` becomes the maximum of itself and them.
template <int Rows, int Vectors>
void scoreTile(const float* keys, int64_t chunk, const float* panel, int64_t dim, float* scores, vf* most) {
  vf sums[Rows][Vectors] = {};
  for (int64_t c = 0; c < dim; c += kChunk, keys += chunk)
    multiplyAdd<kChunk, 1>(sums, minOf<int64_t>(dim - c, kChunk), keys, panel + c * kCols);
#pragma GCC unroll 2
  for (int v = 0; v < Vectors; ++v) {
    vf m = most[v];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      store(scores + r * kCols + v * kWidth, sums[r][v]);
      m = max(m, sums[r][v]);
    }
    most[v] = m;
  }
}

// out[r][..] = factors * out[r][..] + channels r of the values (or keys) times the weights.
template <int Rows, int Vectors>
void valueTile(const float* values, const float* weights, int64_t keys, const vf* factors, float* out) {
  vf sums[Rows][Vectors] = {};
  multiplyAdd<1, kChunk>(sums, keys, values, weights);
#pragma GCC unroll 2
  for (int v = 0; v < Vectors; ++v) {
    const vf factor = factors[v];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      float* y = out + r * kCols + v * kWidth;
      store(y, load(y) * factor + sums[r][v]);
    }
  }
}

// ---- packing ------------------------------------------------------------------------------------------------------

inline int64_t rowFloats(int64_t tokens, int64_t dim) { return tokens * ceilDiv<int64_t>(dim, kChunk) * kChunk; }

// The panel of `tokens` <= kCols tokens, times `scale`.
inline void packPanel(const float* from, int64_t ld, int tokens, int dim, float scale, float* to) {
  for (int t = 0; t < kCols; t += kWidth)
    for (int c = 0; c < dim; c += kWidth) {
      const int channels = dim - c < kWidth ? dim - c : kWidth;
      vf block[kWidth];
      if (channels == kWidth && t + kWidth <= tokens) {
        for (int i = 0; i < kWidth; ++i) block[i] = load(from + (t + i) * ld + c);
      } else {
        for (int i = 0; i < kWidth; ++i)
          block[i] = t + i < tokens ? loadPart(from + (t + i) * ld + c, channels) : zero();
      }
      transpose(block);
      for (int i = 0; i < channels; ++i) store(to + (c + i) * kCols + t, block[i] * scale);
    }
}

// The other way: to[t][c] = panel[c][t] * factors[t].
inline void unpackPanel(const float* panel, const float* factors, int tokens, int dim, float* to, int64_t ld) {
  for (int t = 0; t < tokens; t += kWidth) {
    const vf factor = load(factors + t);
    for (int c = 0; c < dim; c += kWidth) {
      const int channels = dim - c < kWidth ? dim - c : kWidth;
      vf block[kWidth];
      for (int i = 0; i < kWidth; ++i) block[i] = i < channels ? load(panel + (c + i) * kCols + t) * factor : zero();
      transpose(block);
      const int rows = tokens - t < kWidth ? tokens - t : kWidth;
      if (channels == kWidth && rows == kWidth) {
        for (int i = 0; i < kWidth; ++i) store(to + (t + i) * ld + c, block[i]);
      } else {
        for (int i = 0; i < rows; ++i) storePart(to + (t + i) * ld + c, block[i], channels);
      }
    }
  }
}

inline void packRows(const float* from, int64_t ld, int64_t tokens, int64_t dim, float* to) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < dim; c += kChunk)
      forChannels(minOf<int64_t>(dim - c, kChunk), [&](int64_t i, auto part) DDPM_LAMBDA_INLINE {
        store(to + c * tokens + t * kChunk + i, part.load(from + t * ld + c + i));
      });
}

// What a mask adds to the scores of `queries` <= kCols queries and `keys` keys, as [key][kCols]; nothing where
// isSpared(query).
template <class IsSpared>
void packMask(const float* mask, int64_t ld, int queries, int64_t keys, const IsSpared& isSpared, float* to) {
  for (int64_t i = 0; i < keys * kCols; ++i) to[i] = 0.0f;
  for (int q = 0; q < queries; ++q) {
    if (isSpared(q)) continue;
    for (int64_t key = 0; key < keys; ++key)
      if (mask[q * ld + key] == 0.0f) to[key * kCols + q] = kMaskedScore;
  }
}

// The rows of a mask that are sample n's.
inline const float* maskOf(const Tensor& mask, int64_t n) {
  return mask ? mask.f32() + (mask.n == 1 ? 0 : n * mask.h * mask.w * mask.ld) : nullptr;
}

// Rows of tokens that will be packed soon and are asked for meanwhile, in as many steps as there will be.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const float* rows, int64_t ld, int64_t tokens, int64_t dim, int64_t steps)
      : rows_(rows), ld_(ld), left_(tokens), dim_(dim), each_(tokens / steps + 1) {}
  void step() {
    for (int64_t i = minOf(each_, left_); i > 0; --i, --left_, rows_ += ld_)
      for (int64_t c = 0; c < dim_; c += kCacheLine / 4) __builtin_prefetch(rows_ + c, 0, 2);
  }

 private:
  const float* rows_ = nullptr;
  int64_t ld_ = 0, left_ = 0, dim_ = 0, each_ = 0;
};

}  // namespace ddpm::cpu::DDPM_ISA
