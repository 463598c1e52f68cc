// Layer normalization over the channels (Ba et al. 2016), and without a mean RMSNorm, a row at a time: it stays in L1
// over its passes.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

static int64_t rowsPerTask(int64_t c) { return c < kElementsPerTask ? kElementsPerTask / (c > 0 ? c : 1) : 1; }

// The sum of term(i, part) over a row. Channels beyond the row's end count as 0.
template <class Term>
static DDPM_INLINE float sumRow(int64_t c, const Term& term) {
  vf total = zero(), other = zero();  // two chains of additions
  int64_t i = 0;
  for (; i + 2 * kWidth <= c; i += 2 * kWidth) {
    total += term(i, WholeVector{});
    other += term(i + kWidth, WholeVector{});
  }
  forChannels(c - i, [&](int64_t j, auto part) DDPM_LAMBDA_INLINE { total += term(i + j, part); });
  return sum(total + other);
}

static void rootMeanSquare(CpuDevice& device, const LayerNorm& op) {
  const int64_t c = op.x.c;
  const float* gamma = op.gamma.f32();
  device.pool.parallelRange(op.x.rows(), rowsPerTask(c), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = op.x.f32() + row * op.x.ld;
      float* y = op.y.f32() + row * op.y.ld;
      const float length = __builtin_sqrtf(sumRow(c, [=](int64_t i, auto part) {
        const vf v = part.load(x + i);
        return v * v;
      }));
      const float rstd = __builtin_sqrtf(float(c)) / (length > op.eps ? length : op.eps);
      op.rstd.f32()[row * op.rstd.ld] = rstd;
      forChannels(c, [=](int64_t i, auto part) { part.store(y + i, part.load(x + i) * rstd * part.load(gamma + i)); });
    }
  });
}

void run(CpuDevice& device, const LayerNorm& op, void*) {
  if (!op.mean) return rootMeanSquare(device, op);
  const int64_t c = op.x.c;
  const float *gamma = op.gamma.f32(), *beta = op.beta.f32();
  device.pool.parallelRange(op.x.rows(), rowsPerTask(c), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = op.x.f32() + row * op.x.ld;
      float* y = op.y.f32() + row * op.y.ld;
      // Relative to the row's first element, so that a mean much larger than the differences costs no digits.
      const vf origin = broadcast(x[0]);
      const float offset =
          sumRow(c, [=](int64_t i, auto part) { return part.keep(part.load(x + i) - origin); }) / float(c);
      const vf shift = broadcast(offset);
      const float squares = sumRow(c, [=](int64_t i, auto part) {
        const vf d = part.keep(part.load(x + i) - origin - shift);
        return d * d;
      });
      const float rstd = 1.0f / __builtin_sqrtf(squares / float(c) + op.eps);
      op.mean.f32()[row * op.mean.ld] = x[0] + offset;
      op.rstd.f32()[row * op.rstd.ld] = rstd;
      forChannels(c, [=](int64_t i, auto part) {
        const vf u = (part.load(x + i) - origin - shift) * rstd;
        part.store(y + i, u * part.load(gamma + i) + part.load(beta + i));
      });
    }
  });
}

// ---- backward -----------------------------------------------------------------------------------------------------
//
// With u = (x - mean)*rstd and du = gamma*dy:  dx = rstd*(du - mean(du) - u*mean(du*u)); dGamma += sum dy*u; dBeta +=
// sum dy. Without a mean it is 0, and so is mean(du); where rstd is not of x, dx = rstd*du. Each task sums dGamma and
// dBeta over its rows; the tasks' sums are then added in order.

size_t scratch(const CpuDevice&, const LayerNormBackward& op) {
  const int64_t perTask = rowsPerTask(op.x.c), tasks = (op.x.rows() + perTask - 1) / perTask;
  return size_t(tasks) * 2 * op.x.c * sizeof(float);
}

void run(CpuDevice& device, const LayerNormBackward& op, void* memory) {
  const int64_t c = op.x.c, perTask = rowsPerTask(c), tasks = (op.x.rows() + perTask - 1) / perTask;
  const float* gamma = op.gamma.f32();
  const float largest = op.mean ? 0.0f : __builtin_sqrtf(float(c)) / op.eps;  // rstd where |x| <= eps
  float* sums = static_cast<float*>(memory);
  device.pool.parallelRange(op.x.rows(), perTask, [&](int64_t begin, int64_t end) {
    float *sumGamma = sums + begin / perTask * 2 * c, *sumBeta = sumGamma + c;
    for (int64_t i = 0; i < 2 * c; ++i) sumGamma[i] = 0.0f;
    for (int64_t row = begin; row < end; ++row) {
      const float *x = op.x.f32() + row * op.x.ld, *dy = op.dy.f32() + row * op.dy.ld;
      float* dx = op.dx.f32() + row * op.dx.ld;
      const float scale = op.rstd.f32()[row * op.rstd.ld];
      const vf mean = broadcast(op.mean ? op.mean.f32()[row * op.mean.ld] : 0.0f), rstd = broadcast(scale);
      const vf meanDu =
          op.mean
              ? broadcast(sumRow(c, [=](int64_t i, auto part) { return part.load(dy + i) * part.load(gamma + i); }) /
                          float(c))
              : zero();
      const bool free = !op.mean && scale >= largest;
      const vf meanDuU = free ? zero()
                              : broadcast(sumRow(c,
                                                 [=](int64_t i, auto part) {
                                                   const vf u = (part.load(x + i) - mean) * rstd;
                                                   return part.load(dy + i) * part.load(gamma + i) * u;
                                                 }) /
                                          float(c));
      forChannels(c, [=](int64_t i, auto part) {
        const vf g = part.load(dy + i), u = (part.load(x + i) - mean) * rstd;
        part.store(sumGamma + i, part.load(sumGamma + i) + g * u);
        part.store(sumBeta + i, part.load(sumBeta + i) + g);
        part.store(dx + i, rstd * (g * part.load(gamma + i) - meanDu - u * meanDuU));
      });
    }
  });
  addParts(device, sums, tasks, 2 * c, c, op.dGamma.f32());
  if (op.dBeta) addParts(device, sums + c, tasks, 2 * c, c, op.dBeta.f32());
}

}  // namespace ddpm::cpu::DDPM_ISA
