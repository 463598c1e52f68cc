// Linear attention (Shen et al. 2021), a head of a sample at a time, and the tokens that are put before others.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

using Matrix = std::vector<double>;  // [row][channel of the head]

// The channels of one head of one sample.
Matrix headOf(const Tensor& t, int n, int head, int dim) {
  Matrix m;
  for (int row = 0; row < pixels(t); ++row)
    for (int d = 0; d < dim; ++d) m.push_back(at(t, int64_t(n) * pixels(t) + row, head * dim + d));
  return m;
}

void store(const Matrix& m, const Tensor& t, int n, int head, int dim) {
  for (int row = 0; row < pixels(t); ++row)
    for (int d = 0; d < dim; ++d) at(t, int64_t(n) * pixels(t) + row, head * dim + d) = float(m[size_t(row) * dim + d]);
}

// `count` numbers from `first` on, `step` apart, become their softmax. Returns the log of the sum of exponentials.
double softmax(Matrix& m, size_t first, size_t step, size_t count) {
  double maximum = -INFINITY, sum = 0;
  for (size_t i = 0; i < count; ++i) maximum = std::max(maximum, m[first + i * step]);
  for (size_t i = 0; i < count; ++i) sum += m[first + i * step] = std::exp(m[first + i * step] - maximum);
  for (size_t i = 0; i < count; ++i) m[first + i * step] /= sum;
  return maximum + std::log(sum);
}

// aᵀ b; and a b, or a bᵀ.
Matrix outer(const Matrix& a, const Matrix& b, size_t dim) {
  Matrix y(dim * dim);
  for (size_t row = 0; row < a.size() / dim; ++row)
    for (size_t d = 0; d < dim; ++d)
      for (size_t e = 0; e < dim; ++e) y[d * dim + e] += a[row * dim + d] * b[row * dim + e];
  return y;
}
Matrix product(const Matrix& a, const Matrix& b, size_t dim, bool transposed) {
  Matrix y(a.size());
  for (size_t row = 0; row < a.size() / dim; ++row)
    for (size_t d = 0; d < dim; ++d)
      for (size_t e = 0; e < dim; ++e) y[row * dim + e] += a[row * dim + d] * b[transposed ? e * dim + d : d * dim + e];
  return y;
}

}  // namespace

void run(const LinearAttention& op) {
  const auto [heads, dim, scale, querySoftmax] = op.shape;
  for (int n = 0; n < op.q.n; ++n)
    for (int head = 0; head < heads; ++head) {
      Matrix q = headOf(op.q, n, head, dim), p = headOf(op.k, n, head, dim);
      for (int d = 0; d < dim; ++d) at(op.keyLse, n, head * dim + d) = float(softmax(p, d, dim, pixels(op.k)));
      for (int row = 0; querySoftmax && row < pixels(op.q); ++row)
        at(op.queryLse, int64_t(n) * pixels(op.q) + row, head) = float(softmax(q, size_t(row) * dim, 1, dim));
      for (double& x : q) x *= scale;
      const Matrix context = outer(p, headOf(op.v, n, head, dim), dim);
      for (int i = 0; i < dim * dim; ++i) at(op.context, n, head * dim * dim + i) = float(context[i]);
      store(product(q, context, dim, false), op.y, n, head, dim);
    }
}

// By the chain rule through softmax: ds (s - sum s ds). What was kept is computed anew, so that a wrong one can't hide.
void run(const LinearAttentionBackward& op) {
  const auto [heads, dim, scale, querySoftmax] = op.shape;
  for (int n = 0; n < op.q.n; ++n)
    for (int head = 0; head < heads; ++head) {
      Matrix s = headOf(op.q, n, head, dim), p = headOf(op.k, n, head, dim);
      const Matrix v = headOf(op.v, n, head, dim), dy = headOf(op.dy, n, head, dim);
      for (int d = 0; d < dim; ++d) softmax(p, d, dim, pixels(op.k));
      for (int row = 0; querySoftmax && row < pixels(op.q); ++row) softmax(s, size_t(row) * dim, 1, dim);
      const Matrix context = outer(p, v, dim);
      Matrix dContext = outer(s, dy, dim);
      for (double& x : dContext) x *= scale;

      Matrix dq = product(dy, context, dim, true);
      for (double& x : dq) x *= scale;
      for (size_t row = 0; querySoftmax && row < size_t(pixels(op.q)); ++row) {
        double sum = 0;
        for (int d = 0; d < dim; ++d) sum += s[row * dim + d] * dq[row * dim + d];
        for (int d = 0; d < dim; ++d) dq[row * dim + d] = s[row * dim + d] * (dq[row * dim + d] - sum);
      }
      Matrix dk = product(v, dContext, dim, true);
      for (int d = 0; d < dim; ++d) {
        double sum = 0;
        for (size_t i = d; i < dk.size(); i += dim) sum += p[i] * dk[i];
        for (size_t i = d; i < dk.size(); i += dim) dk[i] = p[i] * (dk[i] - sum);
      }
      store(dq, op.dq, n, head, dim);
      store(dk, op.dk, n, head, dim);
      store(product(p, dContext, dim, false), op.dv, n, head, dim);
    }
}

void run(const PrependTokens& op) {
  const int channels = op.x.c, count = op.table.c / channels;
  forEachOfSample(op.y, [&](int n, int64_t row, int c) {
    const int token = int(row % pixels(op.y));
    at(op.y, row, c) = token < count ? float(at(op.table, op.row, token * channels + c))
                                     : float(at(op.x, int64_t(n) * pixels(op.x) + token - count, c));
  });
}

void run(const PrependTokensBackward& op) {
  const int channels = op.dx.c, count = op.dTable.c / channels;
  std::vector<double> sums(op.dTable.c);
  forEachOfSample(op.dy, [&](int n, int64_t row, int c) {
    const int token = int(row % pixels(op.dy));
    if (token < count)
      sums[token * channels + c] += at(op.dy, row, c);
    else
      at(op.dx, int64_t(n) * pixels(op.dx) + token - count, c) = float(at(op.dy, row, c));
  });
  for (int i = 0; i < op.dTable.c; ++i) at(op.dTable, op.row, i) += float(sums[i]);
}

}  // namespace ddpm::reference
