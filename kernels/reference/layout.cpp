// Samples as flat CHW <-> NHWC.
#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const ToNhwc& op) {
  const Tensor& y = op.y;
  forEachOfSample(
      y, [&](int n, int64_t row, int c) { at(y, row, c) = at(op.x, n, c * pixels(y) + int(row % pixels(y))); });
}

void run(const ToNchw& op) {
  const Tensor& x = op.x;
  forEachOfSample(
      x, [&](int n, int64_t row, int c) { at(op.y, n, c * pixels(x) + int(row % pixels(x))) = at(x, row, c); });
}

}  // namespace ddpm::reference
