// The forward process, the posterior step and Gaussian noise, over flat samples.
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {
namespace {

// A stream of normal numbers for each sample; see kernels/philox.h.
struct NoiseStreams {
  Rows<const int32_t> rng, sample, step;
  uint32_t purpose;
  // Numbers e to e + V - 1 of sample n's stream; e a multiple of 4 where V is 4.
  template <int V>
  __device__ Vec<float, V> draw(int n, int64_t e) const {
    const Normal4 z = normal4(uint32_t(rng.data[0]), uint32_t(rng.data[1]), uint32_t(e / 4),
                              uint32_t(element(step, n, 0)), uint32_t(element(sample, n, 0)), purpose);
    Vec<float, V> numbers;
    const int i = int(e % 4);
    if constexpr (V == 4)
      for (int j = 0; j < 4; ++j) numbers.v[j] = z.v[j];
    else  // not z.v[i]: an array with an index that is not constant lives in local memory
      numbers.v[0] = i < 2 ? (i == 0 ? z.v[0] : z.v[1]) : (i == 2 ? z.v[2] : z.v[3]);
    return numbers;
  }
};

NoiseStreams streams(const Tensor& rng, const Tensor& sample, const Tensor& step, Purpose purpose) {
  return {indices(rng), indices(sample), indices(step), uint32_t(purpose)};
}

struct GaussianElements {
  NoiseStreams noise;
  Rows<float> y;
  template <int V>
  __device__ void run(int n, int64_t, int64_t e) const {
    store<V>(y, n, e, noise.template draw<V>(n, e));
  }
};

// Ho et al. 2020, eq. 4.
struct AffineElements {
  Rows<const float> x, z, a, b;
  RowIndex t;
  Rows<float> y;
  bool shared;  // one z for all samples
  template <int V>
  __device__ void run(int n, int64_t, int64_t e) const {
    const int step = t(n);
    auto value = load<V>(x, n, e);
    const float scale = element(a, step, 0);
    for (int i = 0; i < V; ++i) value.v[i] *= scale;
    if (z) {
      const float other = element(b, step, 0);
      const auto addend = load<V>(z, shared ? 0 : n, e);
      for (int i = 0; i < V; ++i) value.v[i] += other * addend.v[i];
    }
    store<V>(y, n, e, value);
  }
};

struct ExtractElements {
  Rows<const float> table;
  RowIndex t;
  Rows<float> y;
  template <int V>
  __device__ void run(int, int64_t n, int64_t) const {
    element(y, n, 0) = element(table, t(n), 0);
  }
};

struct NextSteps {
  Rows<int32_t> step, t;
  Rows<const int32_t> table;
  RowIndex row;  // step, of the table
  template <int V>
  __device__ void run(int, int64_t n, int64_t) const {
    element(step, n, 0) = element(step, n, 0) + 1;
    element(t, n, 0) = element(table, row(n), 0);
  }
};

// Ho et al. 2020, eq. 7 and 11; Song et al. 2021, eq. 12: x_t and the model's output to x_{t-1}, noise and all, in one
// pass.
struct PosteriorElements {
  Rows<const float> x, out, table, noise, scale;
  RowIndex t;
  NoiseStreams drawn;
  Rows<float> y, x0;
  bool clip, shared;  // one noise for all samples
  template <int V>
  __device__ void run(int n, int64_t, int64_t e) const {
    const int64_t step = t(n);
    float row[6];
    for (int i = 0; i < 6; ++i) row[i] = element(table, step, i);
    const float divisor = scale ? element(scale, n, 0) : 1.0f;
    const auto from = load<V>(x, n, e), model = load<V>(out, n, e);
    Vec<float, V> start, next, z;
    for (int i = 0; i < V; ++i) z.v[i] = 0;
    if (noise)
      z = load<V>(noise, shared ? 0 : n, e);
    else if (drawn.rng)
      z = drawn.template draw<V>(n, e);
    for (int i = 0; i < V; ++i) {
      float s = row[0] * from.v[i] + row[1] * model.v[i];
      if (scale) s /= divisor;
      if (clip) s = s < -1.0f ? -1.0f : s > 1.0f ? 1.0f : s;  // a NaN stays one
      start.v[i] = s;
      next.v[i] = row[2] * s + row[3] * from.v[i] + row[4] * model.v[i];
      if (noise || drawn.rng) next.v[i] += row[5] * z.v[i];
    }
    if (x0) store<V>(x0, n, e, start);
    store<V>(y, n, e, next);
  }
};

}  // namespace

void run(CudaDevice& device, const GaussianNoise& op, void*) {
  pointwise(device, bySample({&op.y}),
            GaussianElements{streams(op.rng, op.sample, op.step, Purpose(op.purpose)), out(op.y)});
}

void run(CudaDevice& device, const TimestepAffine& op, void*) {
  pointwise(device, bySample({&op.y, &op.x, &op.z}),
            AffineElements{in(op.x), in(op.z), in(op.a), in(op.b), rowIndex(op.t, op.a), out(op.y), op.z.n == 1});
}

void run(CudaDevice& device, const Extract& op, void*) {
  forEachSample(device, op.y.n, ExtractElements{in(op.table), rowIndex(op.t, op.table), out(op.y)});
}

void run(CudaDevice& device, const NextStep& op, void*) {
  forEachSample(device, op.step.n,
                NextSteps{rowsOf<int32_t>(op.step, DType::i32), rowsOf<int32_t>(op.t, DType::i32), indices(op.table),
                          rowIndex(op.step, op.table)});
}

void run(CudaDevice& device, const PosteriorStep& op, void*) {
  pointwise(device, bySample({&op.y, &op.x, &op.out, &op.noise, &op.x0}),
            PosteriorElements{in(op.x), in(op.out), in(op.table), in(op.noise), in(op.scale), rowIndex(op.t, op.table),
                              streams(op.rng, op.sample, op.step, Purpose::posterior), out(op.y), out(op.x0),
                              op.clip != 0, op.noise.n == 1});
}

}  // namespace ddpm::cuda
