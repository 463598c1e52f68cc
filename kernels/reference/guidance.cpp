// What guided sampling does with predictions.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

double deviation(const Tensor& t, int n) {
  double mean = 0, squares = 0;
  for (int c = 0; c < t.c; ++c) mean += at(t, n, c) / double(t.c);
  for (int c = 0; c < t.c; ++c) squares += (at(t, n, c) - mean) * (at(t, n, c) - mean);
  return std::sqrt(squares / t.c);
}

}  // namespace

void run(const RescaleGuidance& op) {
  for (int n = 0; n < op.x.n; ++n) {
    const double own = deviation(op.x, n);
    const double ratio = own == 0 ? 1 : deviation(op.reference, n) / own;
    for (int c = 0; c < op.x.c; ++c) at(op.y, n, c) = float(at(op.x, n, c) * (1 - op.amount + op.amount * ratio));
  }
}

void run(const AbsQuantile& op) {
  for (int n = 0; n < op.x.n; ++n) {
    std::vector<float> v;
    for (int c = 0; c < op.x.c; ++c) v.push_back(std::fabs(at(op.x, n, c)));
    std::sort(v.begin(), v.end(), [](float a, float b) { return !std::isnan(a) && (a < b || std::isnan(b)); });
    double y = v[op.rank];
    if (op.part > 0) y += op.part * (double(v[op.rank + 1]) - v[op.rank]);
    at(op.y, n, 0) = float(y < op.least ? op.least : y > op.most ? op.most : y);
  }
}

}  // namespace ddpm::reference
