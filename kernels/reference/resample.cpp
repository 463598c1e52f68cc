// Nearest upsampling, pooling, filters that resample, bilinear resizing.
#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

// f(n, h, w, c)
template <class F>
void forEachPixel(const Tensor& t, F f) {
  for (int n = 0; n < t.n; ++n)
    for (int h = 0; h < t.h; ++h)
      for (int w = 0; w < t.w; ++w)
        for (int c = 0; c < t.c; ++c) f(n, h, w, c);
}

double sumWindow(const Tensor& x, int n, int h, int w, int c, int size) {
  double sum = 0;
  for (int r = 0; r < size; ++r)
    for (int s = 0; s < size; ++s) sum += at(x, n, h * size + r, w * size + s, c);
  return sum;
}

}  // namespace

void run(const UpsampleNearest& op) {
  forEachPixel(
      op.y, [&](int n, int h, int w, int c) { at(op.y, n, h, w, c) = at(op.x, n, h / op.factor, w / op.factor, c); });
}

void run(const UpsampleNearestBackward& op) {
  forEachPixel(op.dx, [&](int n, int h, int w, int c) {
    at(op.dx, n, h, w, c) = float(sumWindow(op.dy, n, h, w, c, op.factor));
  });
}

void run(const AvgPool& op) {
  forEachPixel(op.y, [&](int n, int h, int w, int c) {
    at(op.y, n, h, w, c) = float(sumWindow(op.x, n, h, w, c, op.kernel) / (op.kernel * op.kernel));
  });
}

void run(const AvgPoolBackward& op) {
  forEachPixel(op.dx, [&](int n, int h, int w, int c) {
    const int p = h / op.kernel, q = w / op.kernel;
    const bool read = p < op.dy.h && q < op.dy.w;  // else dropped at the border
    at(op.dx, n, h, w, c) = read ? float(double(at(op.dy, n, p, q, c)) / (op.kernel * op.kernel)) : 0.0f;
  });
}

void run(const Pool& op) {
  forEachPixel(op.y, [&](int n, int p, int q, int c) {
    double sum = 0, most = -INFINITY;
    int count = 0;
    for (int r = 0; r < op.kernel; ++r)
      for (int s = 0; s < op.kernel; ++s) {
        const int h = p * op.stride - op.padTop + r, w = q * op.stride - op.padLeft + s;
        if (h < 0 || h >= op.x.h || w < 0 || w >= op.x.w) continue;
        const double v = at(op.x, n, h, w, c);
        if (v > most || std::isnan(v)) most = v;
        sum += v;
        ++count;
      }
    at(op.y, n, p, q, c) = float(op.type == PoolType::max ? most : sum / count);
  });
}

void run(const ResizeBilinear& op) {
  const Tensor &x = op.x, &y = op.y;
  const auto place = [](int p, int from, int to) { return std::max(0.0, (p + 0.5) * from / to - 0.5); };
  forEachPixel(y, [&](int n, int p, int q, int c) {
    const double h = place(p, x.h, y.h), w = place(q, x.w, y.w);
    const int top = int(h), left = int(w), bottom = std::min(top + 1, x.h - 1), right = std::min(left + 1, x.w - 1);
    const double v = h - top, u = w - left;
    at(y, n, p, q, c) = float((1 - v) * ((1 - u) * at(x, n, top, left, c) + u * at(x, n, top, right, c)) +
                              v * ((1 - u) * at(x, n, bottom, left, c) + u * at(x, n, bottom, right, c)));
  });
}

// x with zeros between its pixels.
static double sparse(const FirResample& op, int n, int h, int w, int c) {
  const bool zero = h < 0 || w < 0 || h % op.up || w % op.up || h / op.up >= op.x.h || w / op.up >= op.x.w;
  return zero ? 0 : double(at(op.x, n, h / op.up, w / op.up, c));
}

void run(const FirResample& op) {
  forEachPixel(op.y, [&](int n, int h, int w, int c) {
    double sum = 0;
    for (int r = 0; r < op.count; ++r)
      for (int s = 0; s < op.count; ++s) {
        const double z = sparse(op, n, h * op.down + r - op.top, w * op.down + s - op.left, c);
        sum += double(op.taps[r]) * op.taps[s] * z;
      }
    at(op.y, n, h, w, c) = float(sum);
  });
}

}  // namespace ddpm::reference
