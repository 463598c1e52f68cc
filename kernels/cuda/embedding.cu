// Table lookup and the sinusoidal embedding of timesteps (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix
// B).
#include <cmath>

#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {
namespace {

struct Lookup {
  RowIndex index;
  Rows<const float> table;
  Rows<float> y;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    store<V>(y, row, c, load<V>(table, index(row), c));
  }
};

// A thread owns a column of the table: pixels of one row add up in their order, without atomics.
__global__ void __launch_bounds__(128)
    tableGradientKernel(RowIndex index, Rows<const float> dy, Rows<float> dTable, int64_t rows, int channels) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  for (int64_t row = 0; row < rows; ++row) element(dTable, index(row), c) += element(dy, row, c);
}

// Exponent, frequency and angle are rounded to f32 where PyTorch rounds them: at t near 1000 the rounding of the angle
// shows in the fifth decimal, and it belongs to what trained models have seen.
struct Sinusoids {
  Rows<const int32_t> t;
  Rows<const float> tFloat;  // one of the two
  Rows<float> y;
  float minusLogPeriod, divisor;
  int half, cosAt, sinAt;
  template <int V>
  __device__ void run(int n, int64_t, int64_t c) const {
    static_assert(V == 1);
    if (c == 2 * half) {
      element(y, n, c) = 0;
      return;
    }
    const int i = int(c) % half;
    const float exponent = minusLogPeriod * float(i) / divisor;
    const float angle = (t ? float(element(t, n, 0)) : element(tFloat, n, 0)) * float(exp(double(exponent)));
    element(y, n, c) = float(c - i == cosAt ? cos(double(angle)) : sin(double(angle)));
  }
};

// The logarithm and each product are rounded to f32 where PyTorch rounds them, as above.
struct FourierWaves {
  Rows<const int32_t> t;
  Rows<const float> tFloat;  // one of the two
  Rows<const float> weight;
  Rows<float> y;
  bool log;
  int half, cosAt;
  template <int V>
  __device__ void run(int n, int64_t, int64_t c) const {
    static_assert(V == 1);
    const int i = int(c) % half;
    const float time = t ? float(element(t, n, 0)) : element(tFloat, n, 0);
    const float place = log ? float(::log(double(time))) : time;
    const float turns = 2 * (place * element(weight, 0, i));
    const double angle = turns * float(M_PI);
    element(y, n, c) = float(c - i == cosAt ? cos(angle) : sin(angle));
  }
};

}  // namespace

void run(CudaDevice& device, const FourierEmbedding& op, void*) {
  FourierWaves f;
  if (op.t.dtype == DType::i32)
    f.t = indices(op.t);
  else
    f.tFloat = in(op.t);
  f.weight = in(op.weight);
  f.y = out(op.y);
  f.log = op.log;
  f.half = op.weight.c;
  f.cosAt = op.sinFirst ? f.half : 0;
  pointwiseOf<1>(device, Extent{op.y.n, 1, op.y.c, 1}, f);
}

void run(CudaDevice& device, const Embedding& op, void*) {
  pointwise(device, bySample({&op.y, &op.table}), Lookup{rowIndex(op.index, op.table), in(op.table), out(op.y)});
}

void run(CudaDevice& device, const EmbeddingBackward& op, void*) {
  launch<tableGradientKernel>(unsigned(ceilDiv(op.dy.c, 128)), 128, 0, device.stream(), rowIndex(op.index, op.dTable),
                              in(op.dy), out(op.dTable), op.dy.rows(), op.dy.c);
}

void run(CudaDevice& device, const TimestepEmbedding& op, void*) {
  const int half = op.y.c / 2;
  const bool integer = op.t.dtype == DType::i32;
  Sinusoids f;
  if (integer)
    f.t = indices(op.t);
  else
    f.tFloat = in(op.t);
  f.y = out(op.y);
  f.minusLogPeriod = float(-std::log(double(op.maxPeriod)));
  f.divisor = float(half) - op.freqShift;
  f.half = half;
  f.cosAt = op.sinFirst ? half : 0;
  f.sinAt = half - f.cosAt;
  pointwiseOf<1>(device, Extent{op.y.n, 1, op.y.c, 1}, f);
}

}  // namespace ddpm::cuda
