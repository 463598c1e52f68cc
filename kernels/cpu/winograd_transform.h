// Winograd's minimal filtering for 3x3 convolutions of stride 1 (Lavin & Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks"): F(m x m, 3x3) computes a tile of m x m outputs from (m+2) x (m+2) inputs with (m+2)^2 instead of
// 9 m^2 multiplications, since both are polynomials' products, evaluated and interpolated at m+2 points:
//
//     Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//
// summed over the input channels before Aᵀ...A, which makes of it (m+2)^2 matrix products, one a point.
//
// The matrices (Toom-Cook; Vincent et al. 2017; exact rationals). With points p_0 ... p_m and infinity, and
// N_j = prod_{i != j} (p_j - p_i):
//     Aᵀ  column j: 1, p_j, p_j^2, ... p_j^(m-1);   infinity: 0, ..., 0, 1
//     G   row j: (1, p_j, p_j^2) / N_j;             infinity: 0, 0, 1
//     Bᵀ  row j: coefficients of prod_{i != j} (x - p_i), constant first;  infinity: of prod_i (x - p_i)
//
// F(4x4): points 0, 1, -1, 1/2, -2. The usual 0, +-1, +-2 have twice the error in fp32 (Barabasz et al. 2020); relative
// to the output's RMS it is 1.5e-6, 2.1e-6 and 2.9e-6 here for 128, 256 and 512 input channels; 3.7e-7, 5.0e-7
// and 7.0e-7 for F(2x2) (test/ops/conv2d.test.ts).
//         | 1 -3/2  -2   3/2  1  0 |        |  1                     |        | 1  1  1   1   1  0 |
//         | 0  -1   1/2  5/2  1  0 |        |  1/3    1/3    1/3     |   Aᵀ = | 0  1 -1  1/2 -2  0 |
//    Bᵀ = | 0   1  -5/2  1/2  1  0 |    G = | -1/3    1/3   -1/3     |        | 0  1  1  1/4  4  0 |
//         | 0  -2   -1    2   1  0 |        | -16/15  -8/15  -4/15   |        | 0  1 -1  1/8 -8  1 |
//         | 0  1/2  -1  -1/2  1  0 |        |  1/15   -2/15   4/15   |
//         | 0   1  -3/2  -2  3/2 1 |        |                  1     |
//
// F(2x2): points 0, 1, -1.
//
// After nearest upsampling by 2, with padding 1 (WinogradUpsample): with x before upsampling and i counting its pixels,
//
//     y_2i = w_0 x_(i-1) + (w_1 + w_2) x_i,    y_2i+1 = (w_0 + w_1) x_i + w_2 x_(i+1),
//
// are filters (w_0, w_1 + w_2, 0) and (0, w_0 + w_1, w_2) over the same x. F(2x2) of the first has nothing at infinity,
// of the second nothing at 0, and at 1 both have w_0 + w_1 + w_2. That leaves the points 0 and -1 of the first, -1 and
// infinity of the second and 1 of both: five products for four outputs. In two dimensions it is 25 for 16, where F(4x4)
// of the upsampled map has 36, and so have its four phases by F(2x2, 2x2). The error is 2.9e-7, 4.0e-7 and 5.5e-7 for
// 128, 256 and 512 channels; F(4x4) of the upsampled map has five times that.
//
// Gradients. Of the input: the same convolution of dY with the filters turned by 180 degrees and K and C exchanged. Of
// the weights: the adjoint, dg = Gᵀ [ sum over tiles (A dY Aᵀ) ⊙ (Bᵀ d B) ] G.
#pragma once
#include <type_traits>

#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

// The one-dimensional transforms; a two-dimensional one is that of all columns, then of all rows. From kIn inputs
// they make kSide products, of which product j reads the transformed input inputOf(j), and of those kOut outputs.
struct Winograd4 {
  static constexpr int kOut = 4, kIn = 6, kSide = kIn, kPoints = kSide * kSide;
  static constexpr int inputOf(int product) { return product; }

  // Bᵀ d
  static DDPM_INLINE void input(const vf (&d)[kIn], vf (&v)[kIn]) {
    const vf even = d[4] - d[2], odd = d[3] - d[1];
    v[0] = 1.5f * odd + (d[0] - d[2] + even);
    v[1] = 1.5f * (d[2] + d[3]) + (even + odd);
    v[2] = 1.5f * (d[3] - d[2]) + (even - odd);
    v[3] = 2.0f * odd + even;
    v[4] = -0.5f * odd + even;
    v[5] = 1.5f * even + (d[5] - d[3] - odd);
  }
  // Aᵀ m
  static DDPM_INLINE void output(const vf (&m)[kIn], vf (&y)[kOut]) {
    const vf sum = m[1] + m[2], difference = m[1] - m[2];
    y[0] = (m[0] + sum) + (m[3] + m[4]);
    y[1] = -2.0f * m[4] + (0.5f * m[3] + difference);
    y[2] = 4.0f * m[4] + (0.25f * m[3] + sum);
    y[3] = -8.0f * m[4] + (0.125f * m[3] + (difference + m[5]));
  }
  // A y
  static DDPM_INLINE void outputAdjoint(const vf (&y)[kOut], vf (&m)[kIn]) {
    const vf even = y[0] + y[2], odd = y[1] + y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = 0.125f * y[3] + (0.25f * y[2] + (0.5f * y[1] + y[0]));
    m[4] = -8.0f * y[3] + (4.0f * y[2] + (-2.0f * y[1] + y[0]));
    m[5] = y[3];
  }
  // G g
  static DDPM_INLINE void weight(const vf (&g)[3], vf (&u)[kIn]) {
    const vf even = g[0] + g[2];
    u[0] = g[0];
    u[1] = (1.0f / 3) * (even + g[1]);
    u[2] = (-1.0f / 3) * (even - g[1]);
    u[3] = (-16.0f / 15) * (g[0] + 0.5f * g[1] + 0.25f * g[2]);
    u[4] = (1.0f / 15) * (g[0] - 2.0f * g[1] + 4.0f * g[2]);
    u[5] = g[2];
  }
  // Gᵀ u
  static DDPM_INLINE void weightAdjoint(const vf (&u)[kIn], vf (&g)[3]) {
    const vf a = (1.0f / 3) * u[1], b = (1.0f / 3) * u[2], c = (16.0f / 15) * u[3], d = (1.0f / 15) * u[4];
    g[0] = u[0] + (a - b) + (d - c);
    g[1] = (a + b) - 0.5f * c - 2.0f * d;
    g[2] = (a - b) - 0.25f * c + 4.0f * d + u[5];
  }
};

struct Winograd2 {
  static constexpr int kOut = 2, kIn = 4, kSide = kIn, kPoints = kSide * kSide;
  static constexpr int inputOf(int product) { return product; }

  static DDPM_INLINE void input(const vf (&d)[kIn], vf (&v)[kIn]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  static DDPM_INLINE void output(const vf (&m)[kIn], vf (&y)[kOut]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
  static DDPM_INLINE void outputAdjoint(const vf (&y)[kOut], vf (&m)[kIn]) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[1];
  }
  static DDPM_INLINE void weight(const vf (&g)[3], vf (&u)[kIn]) {
    const vf even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
  }
  static DDPM_INLINE void weightAdjoint(const vf (&u)[kIn], vf (&g)[3]) {
    const vf even = 0.5f * (u[1] + u[2]), odd = 0.5f * (u[1] - u[2]);
    g[0] = u[0] + even;
    g[1] = odd;
    g[2] = even + u[3];
  }
};

struct WinogradUpsample {
  static constexpr int kOut = 4, kIn = 4, kSide = 5, kPoints = kSide * kSide;
  static constexpr int inputOf(int product) { return product < 3 ? product : product - 1; }

  static DDPM_INLINE void input(const vf (&d)[kIn], vf (&v)[kIn]) { Winograd2::input(d, v); }
  static DDPM_INLINE void output(const vf (&m)[kSide], vf (&y)[kOut]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = m[1] + m[3];
    y[2] = m[1] - m[2];
    y[3] = (m[1] - m[3]) + m[4];
  }
  static DDPM_INLINE void outputAdjoint(const vf (&y)[kOut], vf (&m)[kSide]) {
    m[0] = y[0];
    m[1] = (y[0] + y[1]) + (y[2] + y[3]);
    m[2] = y[0] - y[2];
    m[3] = y[1] - y[3];
    m[4] = y[3];
  }
  static DDPM_INLINE void weight(const vf (&g)[3], vf (&u)[kSide]) {
    u[0] = g[0];
    u[1] = 0.5f * (g[0] + g[1] + g[2]);
    u[2] = 0.5f * (g[0] - g[1] - g[2]);
    u[3] = 0.5f * (g[2] - g[1] - g[0]);
    u[4] = g[2];
  }
  static DDPM_INLINE void weightAdjoint(const vf (&u)[kSide], vf (&g)[3]) {
    const vf a = 0.5f * u[1], b = 0.5f * u[2], c = 0.5f * u[3];
    g[0] = u[0] + (a + (b - c));
    g[1] = a - (b + c);
    g[2] = (a - (b - c)) + u[4];
  }
};

// The point of the transformed input that a product reads.
template <class F>
constexpr int inputPoint(int product) {
  return F::inputOf(product / F::kSide) * F::kIn + F::inputOf(product % F::kSide);
}

// f.operator()<F>() for the algorithm's F.
template <class Function>
auto withAlgorithm(ConvAlgo algo, const Function& f) {
  if (algo == ConvAlgo::winogradUpsample) return f.template operator()<WinogradUpsample>();
  return algo == ConvAlgo::winograd4 ? f.template operator()<Winograd4>() : f.template operator()<Winograd2>();
}

// The tiles of a tensor {n,h,w,c}: tile t covers m x m pixels of it, fewer at the right and bottom edges.
template <class F>
struct Tiles {
  int32_t rows, columns;
  int64_t count;

  explicit Tiles(const Tensor& outputs)
      : rows(ceilDiv(outputs.h, F::kOut)),
        columns(ceilDiv(outputs.w, F::kOut)),
        count(int64_t(outputs.n) * rows * columns) {}
  int32_t row(int64_t t) const { return int32_t(t / columns % rows) * F::kOut; }
  int32_t column(int64_t t) const { return int32_t(t % columns) * F::kOut; }
  int32_t sample(int64_t t) const { return int32_t(t / columns / rows); }
  // The pixel at the top left, as an index into the tensor's pixels.
  int64_t corner(const Tensor& x, int64_t t) const { return (int64_t(sample(t)) * x.h + row(t)) * x.w + column(t); }
};

// A transform reads as many streams as there are points, more than the hardware follows; this is how far ahead it asks
// for them, in floats (measured).
constexpr int kTransformAhead = 2 * kCacheLine / int(sizeof(float));

// A tile's square of pixels in x: the one at the top left is (h, w) of sample n. With halve = 1 they are those of x
// upsampled, of which pixel (h, w) is (h/2, w/2) of x.
struct Corner {
  int32_t n, h, w;
  int32_t halve = 0;
};

// The input of an output tile. WinogradUpsample reads what is not yet upsampled.
template <class F>
Corner inputCorner(const Tiles<F>& tiles, int64_t t, const ConvShape& shape) {
  const int32_t n = tiles.sample(t), h = tiles.row(t), w = tiles.column(t);
  if (std::is_same_v<F, WinogradUpsample>) return {n, h / 2 - 1, w / 2 - 1};
  return {n, h - shape.padTop, w - shape.padLeft, shape.upsample - 1};
}

// Where they are; `zeros`, a row of them, for those that are not there.
template <int kSize>
DDPM_INLINE void findPixels(const Tensor& x, const Corner& at, const float* zeros,
                            const float* (&source)[kSize][kSize]) {
  for (int i = 0; i < kSize; ++i) {
    const int32_t h = (at.h + i) >> at.halve;
    const bool inside = uint32_t(h) < uint32_t(x.h);
    const float* line = x.f32() + (int64_t(at.n) * x.h + h) * x.w * x.ld;
    for (int j = 0; j < kSize; ++j) {
      const int32_t w = (at.w + j) >> at.halve;
      source[i][j] = inside && uint32_t(w) < uint32_t(x.w) ? line + int64_t(w) * x.ld : zeros;
    }
  }
}

// Bᵀ d B of a tile of x, to at(c)[point * pointStride] for the channels c of x. Whole vectors are written, 0 beyond the
// last channel.
template <class F, class At>
DDPM_INLINE void transformInput(const Tensor& x, const Corner& corner, const float* zeros, int64_t pointStride,
                                const At& at) {
  const float* source[F::kIn][F::kIn];
  findPixels(x, corner, zeros, source);
  forChannels(x.c, [&](int64_t c, auto part) DDPM_LAMBDA_INLINE {
    vf columns[F::kIn][F::kIn];
    for (int j = 0; j < F::kIn; ++j) {
      vf d[F::kIn];
      for (int i = 0; i < F::kIn; ++i) {
        d[i] = part.load(source[i][j] + c);
        __builtin_prefetch(source[i][j] + c + kTransformAhead);
      }
      F::input(d, columns[j]);
    }
    float* v = at(c);
    for (int i = 0; i < F::kIn; ++i) {
      vf d[F::kIn], r[F::kIn];
      for (int j = 0; j < F::kIn; ++j) d[j] = columns[j][i];
      F::input(d, r);
      for (int j = 0; j < F::kIn; ++j) {
        float* to = v + (i * F::kIn + j) * pointStride;
        __builtin_prefetch(to + kTransformAhead, 1);
        DDPM_ISA::store(to, r[j]);
      }
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
