// Softmax attention (Vaswani et al. 2017, eq. 1), one query at a time. lse[n, head*Lq + i] belongs to query i.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

// Of channels [ca, ca + count) of a's row and [cb, cb + count) of b's.
double dot(const Tensor& a, int64_t rowA, int ca, const Tensor& b, int64_t rowB, int cb, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += double(at(a, rowA, ca + i)) * at(b, rowB, cb + i);
  return sum;
}

// Whether sample n's query i does not attend to key j.
bool isMasked(const Tensor& mask, int n, int queries, int i, int j) {
  return mask && at(mask, int64_t(mask.n == 1 ? 0 : n) * queries + i, j) == 0;
}

}  // namespace

void run(const Attention& op) {
  const AttentionShape& s = op.shape;
  const int queries = pixels(op.q), keys = pixels(op.k);
  std::vector<double> score(keys);
  for (int n = 0; n < op.q.n; ++n)
    for (int head = 0; head < s.heads; ++head)
      for (int i = 0; i < queries; ++i) {
        const int64_t row = int64_t(n) * queries + i, key = int64_t(n) * keys;
        for (int j = 0; j < keys; ++j)
          score[j] = isMasked(op.mask, n, queries, i, j)
                         ? kMaskedScore
                         : s.scale * dot(op.q, row, head * s.qHead, op.k, key + j, head * s.kHead, s.headDim);
        const double maximum = *std::max_element(score.begin(), score.end());
        double sum = 0;
        for (int j = 0; j < keys; ++j) sum += std::exp(score[j] - maximum);
        const double lse = maximum + std::log(sum);
        at(op.lse, n, head * queries + i) = float(lse);
        for (int d = 0; d < s.headDim; ++d) {
          double y = 0;
          for (int j = 0; j < keys; ++j)
            y += std::exp(score[j] - maximum) / sum * at(op.v, key + j, head * s.vHead + d);
          at(op.y, row, head * s.headDim + d) = float(y);
        }
      }
}

// With p = softmax(scale q kT): dv = pT dy; dp = dy vT; ds = p (dp - sum_j p dp); dq = scale ds k; dk = scale dsT q.
// The probabilities are computed anew rather than taken from lse, so that a wrong lse can't hide here.
void run(const AttentionBackward& op) {
  const AttentionShape& s = op.shape;
  const int queries = pixels(op.q), keys = pixels(op.k), dim = s.headDim;
  std::vector<double> p(keys), dp(keys), dk(size_t(keys) * dim), dv(size_t(keys) * dim);
  for (int n = 0; n < op.q.n; ++n)
    for (int head = 0; head < s.heads; ++head) {
      const int64_t key = int64_t(n) * keys;
      std::fill(dk.begin(), dk.end(), 0);
      std::fill(dv.begin(), dv.end(), 0);
      for (int i = 0; i < queries; ++i) {
        const int64_t row = int64_t(n) * queries + i;
        for (int j = 0; j < keys; ++j)
          p[j] = isMasked(op.mask, n, queries, i, j)
                     ? kMaskedScore
                     : s.scale * dot(op.q, row, head * s.qHead, op.k, key + j, head * s.kHead, dim);
        const double maximum = *std::max_element(p.begin(), p.end());
        double sum = 0, pdp = 0;
        for (int j = 0; j < keys; ++j) sum += p[j] = std::exp(p[j] - maximum);
        for (int j = 0; j < keys; ++j) {
          p[j] /= sum;
          dp[j] = dot(op.dy, row, head * dim, op.v, key + j, head * s.vHead, dim);
          pdp += p[j] * dp[j];
        }
        for (int d = 0; d < dim; ++d) {
          double dq = 0;
          for (int j = 0; j < keys; ++j) {
            const double ds = isMasked(op.mask, n, queries, i, j) ? 0 : s.scale * p[j] * (dp[j] - pdp);
            dq += ds * at(op.k, key + j, head * s.kHead + d);
            dk[size_t(j) * dim + d] += ds * at(op.q, row, head * s.qHead + d);
            dv[size_t(j) * dim + d] += p[j] * at(op.dy, row, head * dim + d);
          }
          at(op.dq, row, head * s.qHead + d) = float(dq);
        }
      }
      for (int j = 0; j < keys; ++j)
        for (int d = 0; d < dim; ++d) {
          at(op.dk, key + j, head * s.kHead + d) = float(dk[size_t(j) * dim + d]);
          at(op.dv, key + j, head * s.vHead + d) = float(dv[size_t(j) * dim + d]);
        }
    }
}

}  // namespace ddpm::reference
