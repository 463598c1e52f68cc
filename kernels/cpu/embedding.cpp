// Table lookup and the sinusoidal embedding of timesteps (Vaswani et al. 2017, section 3.5; ldm util.py
// timestep_embedding). All of them are small: a few rows a step.
#include <math.h>

#include "kernels/cpu/table_row.h"

namespace ddpm::cpu::DDPM_ISA {

void run(CpuDevice& device, const Embedding& op, void*) {
  device.pool.parallelRange(op.y.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* __restrict row = rowOf(op.table, op.index, n);
      float* __restrict y = op.y.f32() + n * op.y.ld;
      for (int c = 0; c < op.y.c; ++c) y[c] = row[c];
    }
  });
}

// Pixels may share a row of the table, so one after the other.
void run(CpuDevice&, const EmbeddingBackward& op, void*) {
  for (int64_t n = 0; n < op.dy.rows(); ++n) {
    float* __restrict row = rowOf(op.dTable, op.index, n);
    const float* __restrict dy = op.dy.f32() + n * op.dy.ld;
    for (int c = 0; c < op.dy.c; ++c) row[c] += dy[c];
  }
}

// Exponent, frequency and angle are rounded to f32 where PyTorch rounds them: at t near 1000 the rounding of the angle
// shows in the fifth decimal, and it belongs to what trained models have seen.
void run(CpuDevice& device, const TimestepEmbedding& op, void*) {
  const int half = op.y.c / 2;
  const int64_t cosAt = op.sinFirst ? half : 0, sinAt = op.sinFirst ? 0 : half;
  const float logPeriod = float(log(double(op.maxPeriod)));
  device.pool.parallelRange(half, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float frequency = float(exp(double(-logPeriod * float(i) / (float(half) - op.freqShift))));
      for (int64_t n = 0; n < op.y.n; ++n) {
        const float t = op.t.dtype == DType::i32 ? float(op.t.i32()[n * op.t.ld]) : op.t.f32()[n * op.t.ld];
        float* y = op.y.f32() + n * op.y.ld;
        y[cosAt + i] = cosf(t * frequency);
        y[sinAt + i] = sinf(t * frequency);
      }
    }
  });
  if (op.y.c % 2)
    for (int64_t n = 0; n < op.y.n; ++n) op.y.f32()[n * op.y.ld + op.y.c - 1] = 0;
}

// The logarithm and each product are rounded to f32 where PyTorch rounds them, as above.
void run(CpuDevice& device, const FourierEmbedding& op, void*) {
  const int half = op.weight.c;
  const int64_t cosAt = op.sinFirst ? half : 0, sinAt = half - cosAt;
  device.pool.parallelRange(half, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < op.y.n; ++n) {
      const float t = op.t.dtype == DType::i32 ? float(op.t.i32()[n * op.t.ld]) : op.t.f32()[n * op.t.ld];
      const float place = op.log ? float(log(double(t))) : t;
      float* y = op.y.f32() + n * op.y.ld;
      for (int64_t i = begin; i < end; ++i) {
        const float turns = 2 * (place * op.weight.f32()[i]);
        const double angle = turns * float(M_PI);
        y[cosAt + i] = float(cos(angle));
        y[sinAt + i] = float(sin(angle));
      }
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
