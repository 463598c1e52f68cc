// Sums, per-sample shifts and scales, copies of views.
#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const Add& op) {
  forEach(op.y, [&](int64_t row, int c) { at(op.y, row, c) = at(op.a, row, c) + at(op.b, row, c); });
}

void run(const AddSample& op) {
  forEachOfSample(op.y, [&](int n, int64_t row, int c) { at(op.y, row, c) = at(op.x, row, c) + at(op.e, n, c); });
}

void run(const SumPixels& op) {
  for (int n = 0; n < op.x.n; ++n)
    for (int c = 0; c < op.x.c; ++c) {
      double sum = 0;
      for (int p = 0; p < pixels(op.x); ++p) sum += at(op.x, int64_t(n) * pixels(op.x) + p, c);
      at(op.y, n, c) = float(sum);
    }
}

void run(const DivSample& op) {
  forEachOfSample(op.y, [&](int n, int64_t row, int c) {
    const int i = op.d.n == 1 ? 0 : n;
    const double d = op.d.dtype == DType::i32 ? double(index(op.d, i)) : double(at(op.d, i, 0));
    at(op.y, row, c) = float(at(op.x, row, c) / d);
  });
}

void run(const ScaleShift& op) {
  forEachOfSample(op.y, [&](int n, int64_t row, int c) {
    at(op.y, row, c) = float(at(op.x, row, c) * (1.0 + at(op.e, n, c)) + at(op.e, n, op.y.c + c));
  });
}

void run(const ScaleShiftBackward& op) {
  const int channels = op.x.c;
  for (int n = 0; n < op.x.n; ++n)
    for (int c = 0; c < channels; ++c) {
      double scale = 0, shift = 0;
      for (int p = 0; p < pixels(op.x); ++p) {
        const int64_t row = int64_t(n) * pixels(op.x) + p;
        const double dy = at(op.dy, row, c);
        scale += dy * at(op.x, row, c);
        shift += dy;
        at(op.dx, row, c) = float(dy * (1.0 + at(op.e, n, c)));
      }
      at(op.de, n, c) = float(scale);
      at(op.de, n, channels + c) = float(shift);
    }
}

void run(const Copy& op) {
  forEach(op.y, [&](int64_t row, int c) {
    at(op.y, row, c) = op.accumulate ? at(op.y, row, c) + at(op.x, row, c) : at(op.x, row, c);
  });
}

void run(const Fill& op) {
  forEach(op.y, [&](int64_t row, int c) { at(op.y, row, c) = op.value; });
}

}  // namespace ddpm::reference
