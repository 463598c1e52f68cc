// Convolutions as matrix products (implicit GEMM): which numbers of the source and of the weights stand where in the
// product's operands. No kernel divides in its loop: positions are advanced digit by digit.
//
// forward and dgrad   y[m, k] = sum_j a[m, j] b[k, j]: m a pixel of the result, j a tap and a channel of the source in
//                     the order (r, s, c), b the weights. They differ in where a tap looks; see Axis.
// wgrad               dw[k, j] += sum_m dy[m, k] a[m, j], j as above.
//
// The dgrad of a strided convolution falls into stride^2 phases, the pixels with the same remainders by the stride: all
// of a phase are read by the same taps, and each phase is a product of its own with those taps only.
#pragma once
#include <algorithm>

#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {

// One axis of a phase. Position i of the result sees through tap u position i * multiply + offset + direction * u of
// the source. It stands for position i * spread + start of the whole result, and u for tap u * spread + tapStart of the
// weights.
struct Axis {
  int count, taps;
  int multiply, offset, direction;
  int spread, start, tapStart;
};

inline Axis forwardAxis(int count, int taps, int stride, int pad) { return {count, taps, stride, -pad, 1, 1, 0, 0}; }

// x[h] is read by y[p] through tap r where h = p * stride - pad + r.
inline Axis dgradAxis(int size, int taps, int stride, int pad, int phase) {
  const int tapStart = (phase + pad) % stride;
  const auto count = [&](int n, int start) { return start < n ? int(ceilDiv(n - start, stride)) : 0; };
  return {count(size, phase), count(taps, tapStart), 1, (phase + pad) / stride, -1, stride, phase, tapStart};
}

// A phase of a convolution.
struct Gather {
  Axis h, w;
  int samples, sourceH, sourceW, sourceC;
  int ld;                // of the source
  int resultH, resultW;  // the whole result
  int weightH, weightW;  // all taps
  int pixels;            // of this phase's result, in all samples
  int reduction;         // taps of this phase, times channels of the source

  Gather(const Tensor& source, const Tensor& result, const Axis& h, const Axis& w, int weightH, int weightW)
      : h(h),
        w(w),
        samples(result.n),
        sourceH(source.h),
        sourceW(source.w),
        sourceC(source.c),
        ld(source.ld),
        resultH(result.h),
        resultW(result.w),
        weightH(weightH),
        weightW(weightW) {
    if (std::max(source.rows(), result.rows()) > INT32_MAX - 1024)  // as far as the kernels count
      throw BackendError(ErrorCode::unsupported, "a convolution of 2^31 pixels or more");
    pixels = result.n * h.count * w.count;
    reduction = h.taps * w.taps * source.c;
  }

  // Row of the whole result that pixel m of the phase is.
  __device__ int64_t resultRow(int m) const {
    if (h.spread == 1) return m;
    const int row = m / w.count, n = row / h.count;
    return (int64_t(n) * resultH + (row - n * h.count) * h.spread + h.start) * resultW +
           (m - row * w.count) * w.spread + w.start;
  }
};

inline Gather forwardGather(const Tensor& x, const Tensor& y, int R, int S, const ConvShape& shape) {
  return {x, y, forwardAxis(y.h, R, shape.stride, shape.padTop), forwardAxis(y.w, S, shape.stride, shape.padLeft),
          R, S};
}

// Calls f with each phase's Gather that has pixels.
template <class F>
void forEachDgradPhase(const Tensor& dy, const Tensor& dx, int R, int S, const ConvShape& shape, const F& f) {
  for (int e = 0; e < std::min(shape.stride, dx.h); ++e)
    for (int g = 0; g < std::min(shape.stride, dx.w); ++g)
      f(Gather(dy, dx, dgradAxis(dx.h, R, shape.stride, shape.padTop, e),
               dgradAxis(dx.w, S, shape.stride, shape.padLeft, g), R, S));
}

// A position in the sum: tap and channel, or how far to advance, in the same digits.
struct Step {
  int r, s, c;
  __host__ __device__ static Step at(int j, const Gather& g) {
    if (g.reduction == 0) return {0, 0, 0};
    const int tap = j / g.sourceC, r = tap / g.w.taps;
    return {r, tap - r * g.w.taps, j - tap * g.sourceC};
  }
  __device__ void advance(const Step& by, const Gather& g) {
    c += by.c;
    s += by.s;
    r += by.r;
    if (c >= g.sourceC) {
      c -= g.sourceC;
      ++s;
    }
    if (s >= g.w.taps) {
      s -= g.w.taps;
      ++r;
    }
  }
  __device__ void next(const Gather& g) {
    if (++c == g.sourceC) {
      c = 0;
      if (++s == g.w.taps) {
        s = 0;
        ++r;
      }
    }
  }
  __device__ bool inside(const Gather& g) const { return r < g.h.taps && g.reduction > 0; }
  // Its tap of the weights.
  __device__ int tap(const Gather& g) const {
    return (r * g.h.spread + g.h.tapStart) * g.weightW + s * g.w.spread + g.w.tapStart;
  }
  // From the element that a pixel's first tap sees to the one of this step.
  __device__ int64_t offset(const Gather& g) const {
    return int64_t(g.h.direction * r * g.sourceW + g.w.direction * s) * g.ld + c;
  }
};

// What a pixel's first tap sees: a position, perhaps outside of the source, and its element.
struct Seen {
  int h, w;
  int64_t index;
  // Of pixel m of the phase; nothing where there is none.
  __device__ static Seen by(int m, const Gather& g) {
    if (m >= g.pixels) return {INT32_MIN / 2, 0, 0};
    const int row = m / g.w.count, n = row / g.h.count;
    return at(n, row - n * g.h.count, m - row * g.w.count, g);
  }
  __device__ static Seen at(int n, int p, int q, const Gather& g) {
    const int h = p * g.h.multiply + g.h.offset, w = q * g.w.multiply + g.w.offset;
    return {h, w, int64_t((n * g.sourceH + h) * g.sourceW + w) * g.ld};
  }
  // Whether the tap of a step sees a pixel of the source, not padding.
  __device__ bool inside(const Step& step, const Gather& g) const {
    return unsigned(h + g.h.direction * step.r) < unsigned(g.sourceH) &&
           unsigned(w + g.w.direction * step.s) < unsigned(g.sourceW);
  }
};

// A pixel of the result as digits, or how far to advance.
struct Pixel {
  int n, p, q;
  __host__ __device__ static Pixel at(int m, const Gather& g) {
    const int row = m / g.w.count, n = row / g.h.count;
    return {n, row - n * g.h.count, m - row * g.w.count};
  }
  __device__ void advance(const Pixel& by, const Gather& g) {
    q += by.q;
    p += by.p;
    n += by.n;
    if (q >= g.w.count) {
      q -= g.w.count;
      ++p;
    }
    if (p >= g.h.count) {
      p -= g.h.count;
      ++n;
    }
  }
};

}  // namespace ddpm::cuda
