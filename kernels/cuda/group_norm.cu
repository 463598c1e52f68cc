// Group normalization (Wu & He 2018) with scale-shift and SiLU; here in two passes over memory.
//
// Both directions go the same way. First sums over the pixels of each channel of each sample, cut into chunks that do
// not depend on the batch. Then a warp for each group turns its channels' sums into a few coefficients a channel. Then
// an elementwise pass applies them. With A = rstd gamma (1 + scale), B = beta (1 + scale) + shift:
//
//     forward    a = (x - mean) A + B;  y = silu(a)
//     backward   da = dy silu'(a);  S1 = sum da, S2 = sum da u over the pixels, u = (x - mean) rstd
//                dshift = S1;  dscale = sum da v = gamma S2 + beta S1, as v = gamma u + beta
//                dbeta = sum_n (1 + scale) S1;  dgamma = sum_n (1 + scale) S2
//                du = da gamma (1 + scale);  dx = rstd (du - mean(du) - u mean(du u)) = A da - P - (x - mean) Q,
//                P = rstd / M sum_group gamma (1 + scale) S1,  Q = rstd^2 / M sum_group gamma (1 + scale) S2
//
// Scratch: partial sums [n][chunk][2][C], coefficients [n][4][C], and for the backward pass [n][2][C] that dgamma and
// dbeta add up.
#include "kernels/cuda/group_norm.cuh"

namespace ddpm::cuda {
namespace {

struct Partials {
  Global<float> sums;  // [n][chunk][2][C]
  int channels, chunks;
  __device__ void write(int n, int chunk, int c, const Vec<float, 2>& s) const {
    const int64_t at = (int64_t(n) * chunks + chunk) * 2 * channels + c;
    sums[at] = s.v[0];
    sums[at + channels] = s.v[1];
  }
  __device__ Vec<float, 2> total(int n, int c) const {
    Vec<float, 2> total = {{0, 0}};
    for (int i = 0; i < chunks; ++i) {
      const int64_t at = (int64_t(n) * chunks + i) * 2 * channels + c;
      total.v[0] += sums[at];
      total.v[1] += sums[at + channels];
    }
    return total;
  }
};

// Row `which` of sample n's coefficients.
__device__ __forceinline__ int64_t coefficient(int n, int which, int channels) {
  return (int64_t(n) * 4 + which) * channels;
}

// ---- forward ----

// Sums of x - s and its square, s the channel's first pixel: near enough to the mean that nothing cancels.
struct Moments {
  FeatureMap x;
  Partials partials;
  int area;
  struct Column {
    FeatureMap x;
    int c;
    float shift;
    __device__ void add(int64_t row, Vec<float, 2>& sums) const {
      const float d = number(x, row, c) - shift;
      sums.v[0] += d;
      sums.v[1] += d * d;
    }
  };
  __device__ Column column(int n, int c) const { return {x, c, number(x, int64_t(n) * area, c)}; }
  __device__ void write(int n, int chunk, int c, const Vec<float, 2>& sums) const { partials.write(n, chunk, c, sums); }
};

// A warp a group. Channel means and squares around them combine as Chan et al. 1979 do.
__global__ void __launch_bounds__(32)
    statisticsKernel(FeatureMap x, Partials partials, Affine affine, Rows<float> mean, Rows<float> rstd,
                     Global<float> coefficients, int area, int size, float eps) {
  const int g = blockIdx.x, n = blockIdx.y, channels = partials.channels;
  const auto meanOf = [&](int c, const Vec<float, 2>& s) {
    return number(x, int64_t(n) * area, c) + s.v[0] / float(area);
  };
  float sum = 0;
  for (int c = g * size + threadIdx.x; c < (g + 1) * size; c += 32) sum += meanOf(c, partials.total(n, c));
  const float mu = warpSum(sum) / float(size);
  float squares = 0;
  for (int c = g * size + threadIdx.x; c < (g + 1) * size; c += 32) {
    const Vec<float, 2> s = partials.total(n, c);
    const float d = meanOf(c, s) - mu;
    squares += (s.v[1] - s.v[0] * s.v[0] / float(area)) + float(area) * d * d;
  }
  const float variance = warpSum(squares) / (float(area) * float(size));
  const float r = 1.0f / sqrtf(variance + eps);
  if (threadIdx.x == 0) {
    element(mean, n, g) = mu;
    element(rstd, n, g) = r;
  }
  for (int c = g * size + threadIdx.x; c < (g + 1) * size; c += 32) {
    coefficients[coefficient(n, 0, channels) + c] = mu;
    coefficients[coefficient(n, 1, channels) + c] = r * element(affine.gamma, 0, c) * affine.onePlusScale(n, c);
    coefficients[coefficient(n, 2, channels) + c] = affine.offset(n, c);
  }
}

template <bool fuseSilu>
struct Normalize {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Global<const float> coefficients;
  int channels;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    auto value = load<V>(x, row, c);
    const auto mean = load<V>(coefficients, coefficient(n, 0, channels) + c);
    const auto a = load<V>(coefficients, coefficient(n, 1, channels) + c);
    const auto b = load<V>(coefficients, coefficient(n, 2, channels) + c);
    for (int i = 0; i < V; ++i) {
      const float v = (value.v[i] - mean.v[i]) * a.v[i] + b.v[i];
      value.v[i] = fuseSilu ? silu(v) : v;
    }
    store<V>(y, row, c, value);
  }
};

// ---- backward ----

template <bool fuseSilu>
struct GradientSums {
  FeatureMap x, dy;
  Rows<const float> mean, rstd;
  Affine affine;
  Partials partials;
  int size;
  struct Column {
    FeatureMap x, dy;
    int c;
    float mean, rstd, a, b;
    __device__ void add(int64_t row, Vec<float, 2>& sums) const {
      const float d = number(x, row, c) - mean;
      float da = number(dy, row, c);
      if (fuseSilu) da *= siluDerivative(d * a + b);
      sums.v[0] += da;
      sums.v[1] += da * (d * rstd);
    }
  };
  __device__ Column column(int n, int c) const {
    const float r = element(rstd, n, c / size);
    const float a = r * element(affine.gamma, 0, c) * affine.onePlusScale(n, c);
    return {x, dy, c, element(mean, n, c / size), r, a, affine.offset(n, c)};
  }
  __device__ void write(int n, int chunk, int c, const Vec<float, 2>& sums) const { partials.write(n, chunk, c, sums); }
};

__global__ void __launch_bounds__(32)
    gradientKernel(Partials partials, Affine affine, Rows<const float> rstd, Rows<float> dScale, Rows<float> dShift,
                   Global<float> coefficients, Global<float> parameterSums, int area, int size) {
  const int g = blockIdx.x, n = blockIdx.y, channels = partials.channels;
  const float r = element(rstd, n, g);
  float sum1 = 0, sum2 = 0;
  for (int c = g * size + threadIdx.x; c < (g + 1) * size; c += 32) {
    const Vec<float, 2> s = partials.total(n, c);
    const float scale = affine.onePlusScale(n, c), gamma = element(affine.gamma, 0, c);
    sum1 += gamma * scale * s.v[0];
    sum2 += gamma * scale * s.v[1];
    if (dScale) element(dScale, n, c) = gamma * s.v[1] + element(affine.beta, 0, c) * s.v[0];
    if (dShift) element(dShift, n, c) = s.v[0];
    parameterSums[int64_t(n) * 2 * channels + c] = scale * s.v[1];
    parameterSums[(int64_t(n) * 2 + 1) * channels + c] = scale * s.v[0];
    coefficients[coefficient(n, 0, channels) + c] = r * gamma * scale;
    coefficients[coefficient(n, 1, channels) + c] = affine.offset(n, c);
  }
  const float count = float(area) * float(size);
  const float p = r * warpSum(sum1) / count, q = r * r * warpSum(sum2) / count;
  for (int c = g * size + threadIdx.x; c < (g + 1) * size; c += 32) {
    coefficients[coefficient(n, 2, channels) + c] = p;
    coefficients[coefficient(n, 3, channels) + c] = q;
  }
}

template <bool fuseSilu>
struct InputGradients {
  static constexpr bool kMixed = true;
  FeatureMap x, dy, dx;
  Rows<const float> mean;
  Global<const float> coefficients;
  int channels, size;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    const auto value = load<V>(x, row, c);
    auto gradient = load<V>(dy, row, c);
    const auto a = load<V>(coefficients, coefficient(n, 0, channels) + c);
    const auto b = load<V>(coefficients, coefficient(n, 1, channels) + c);
    const auto p = load<V>(coefficients, coefficient(n, 2, channels) + c);
    const auto q = load<V>(coefficients, coefficient(n, 3, channels) + c);
    for (int i = 0; i < V; ++i) {
      const float d = value.v[i] - element(mean, n, (c + i) / size);
      float da = gradient.v[i];
      if (fuseSilu) da *= siluDerivative(d * a.v[i] + b.v[i]);
      gradient.v[i] = a.v[i] * da - p.v[i] - d * q.v[i];
    }
    store<V>(dx, row, c, gradient);
  }
};

// Offsets, in floats, of the parts of the scratch memory.
struct Layout {
  int chunks;
  int64_t coefficients, parameterSums, end;
  explicit Layout(const Tensor& x) : chunks(columnChunks(pixels(x))) {
    const int64_t row = int64_t(x.n) * x.c;
    coefficients = (row * chunks * 2 + 3) / 4 * 4;
    parameterSums = coefficients + row * 4;
    end = parameterSums + row * 2;
  }
};

Partials partialsOf(void* scratch, const Tensor& x, const Layout& layout) {
  return {scratchOf<float>(scratch, 0, layout.coefficients), x.c, layout.chunks};
}
Global<float> coefficientsOf(void* scratch, const Layout& layout) {
  return scratchOf<float>(scratch, layout.coefficients, layout.parameterSums - layout.coefficients);
}

template <bool fuseSilu>
void backward(CudaDevice& device, const GroupNormBackward& op, void* scratch, Global<float> parameterSums) {
  const Tensor& x = op.x;
  const int area = pixels(x), size = x.c / op.groups;
  const Layout layout(x);
  const Partials partials = partialsOf(scratch, x, layout);
  const Global<float> coefficients = coefficientsOf(scratch, layout);
  const Affine affine = affineOf(op);
  columnSums<2>(
      device,
      GradientSums<fuseSilu>{featureMap(x), featureMap(op.dy), in(op.mean), in(op.rstd), affine, partials, size}, x.n,
      area, x.c, layout.chunks);
  launch<gradientKernel>(dim3(unsigned(op.groups), unsigned(x.n)), 32, 0, device.stream(), partials, affine,
                         in(op.rstd), out(op.dScale), out(op.dShift), coefficients, parameterSums, area, size);
  pointwise(device, bySample({&op.dx, &x, &op.dy}),
            InputGradients<fuseSilu>{featureMap(x), featureMap(op.dy), featureMap(op.dx), in(op.mean), coefficients,
                                     x.c, size});
}

}  // namespace

size_t scratch(const CudaDevice&, const GroupNorm& op) { return size_t(Layout(op.x).parameterSums) * sizeof(float); }
size_t scratch(const CudaDevice&, const GroupNormBackward& op) { return size_t(Layout(op.x).end) * sizeof(float); }

void run(CudaDevice& device, const GroupNorm& op, void* scratch) {
  if (normalizeStrips(device, op)) return;
  const Tensor& x = op.x;
  const int area = pixels(x), size = x.c / op.groups;
  const Layout layout(x);
  const Partials partials = partialsOf(scratch, x, layout);
  const Global<float> coefficients = coefficientsOf(scratch, layout);
  const Affine affine = affineOf(op);
  columnSums<2>(device, Moments{featureMap(x), partials, area}, x.n, area, x.c, layout.chunks);
  launch<statisticsKernel>(dim3(unsigned(op.groups), unsigned(x.n)), 32, 0, device.stream(), featureMap(x), partials,
                           affine, out(op.mean), out(op.rstd), coefficients, area, size, op.eps);
  const Extent extent = bySample({&op.y, &x});
  if (op.silu)
    pointwise(device, extent, Normalize<true>{featureMap(x), featureMap(op.y), coefficients, x.c});
  else
    pointwise(device, extent, Normalize<false>{featureMap(x), featureMap(op.y), coefficients, x.c});
}

void run(CudaDevice& device, const GroupNormBackward& op, void* scratch) {
  const Tensor& x = op.x;
  const Layout layout(x);
  const Global<float> sums = scratchOf<float>(scratch, layout.parameterSums, layout.end - layout.parameterSums);
  if (!differentiateStrips(device, op, sums)) {
    if (op.silu)
      backward<true>(device, op, scratch, sums);
    else
      backward<false>(device, op, scratch, sums);
  }
  accumulatePairs(device, sums, out(op.dGamma).data, out(op.dBeta).data, x.c, x.n);
}

}  // namespace ddpm::cuda
