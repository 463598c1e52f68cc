// Latents of first stages: a posterior's sample and its divergence, and the nearest entry of a codebook.
#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum_double.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr float kLow = -30.0f, kHigh = 20.0f;

// The mean or the log variance.
Tensor half(const Tensor& moments, int32_t which) {
  Tensor t = moments;
  t.c /= 2;
  t.data = moments.f32() + which * t.c;
  return t;
}

DDPM_INLINE vf clamped(vf l) {
  const vf low = select(l < kLow, broadcast(kLow), l);  // NaN stays NaN
  return select(low > kHigh, broadcast(kHigh), low);
}
DDPM_INLINE double clamped(double l) { return l < kLow ? kLow : l > kHigh ? kHigh : l; }

// `gradient` where l is not clamped, else 0.
DDPM_INLINE vf within(vf l, vf gradient) { return select(l < kLow, zero(), select(l > kHigh, zero(), gradient)); }

}  // namespace

void run(CpuDevice& device, const GaussianSample& op, void*) {
  forRows(device, {half(op.moments, 0), half(op.moments, 1), op.noise, op.y}, [](float* const* p, int64_t n) {
    forChannels(n, [=](int64_t i, auto part) {
      const vf std = exp(clamped(part.load(p[1] + i)) * 0.5f);
      part.store(p[3] + i, std * part.load(p[2] + i) + part.load(p[0] + i));
    });
  });
}

void run(CpuDevice& device, const GaussianSampleBackward& op, void*) {
  forRows(device, {half(op.moments, 1), op.noise, op.dy, half(op.dMoments, 0), half(op.dMoments, 1)},
          [](float* const* p, int64_t n) {
            forChannels(n, [=](int64_t i, auto part) {
              const vf l = part.load(p[0] + i), dy = part.load(p[2] + i);
              part.store(p[3] + i, dy);
              part.store(p[4] + i, within(l, dy * part.load(p[1] + i) * exp(clamped(l) * 0.5f) * 0.5f));
            });
          });
}

// Latents are few, and a sum of many small terms.
void run(CpuDevice& device, const GaussianKl& op, void*) {
  const int64_t pixels = int64_t(op.moments.h) * op.moments.w, c = op.moments.c / 2;
  device.pool.parallelFor(op.moments.n, [&](int64_t n, int) {
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      const float* x = op.moments.f32() + (n * pixels + p) * op.moments.ld;
      sum += sumDouble(c, [=](int64_t i) {
        const double l = clamped(double(x[c + i]));
        return 0.5 * (double(x[i]) * x[i] + __builtin_exp(l) - 1 - l);
      });
    }
    op.kl.f32()[n * op.kl.ld] = float(sum);
  });
}

void run(CpuDevice& device, const GaussianKlBackward& op, void*) {
  const int64_t pixels = int64_t(op.moments.h) * op.moments.w, c = op.moments.c / 2;
  device.pool.parallelRange(op.moments.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float dKl = op.dKl.f32()[row / pixels * op.dKl.ld];
      const float* x = op.moments.f32() + row * op.moments.ld;
      float* d = op.dMoments.f32() + row * op.dMoments.ld;
      forChannels(c, [=](int64_t i, auto part) {
        const vf l = part.load(x + c + i);
        part.store(d + i, part.load(x + i) * dKl);
        part.store(d + c + i, within(l, (exp(clamped(l)) - 1.0f) * (0.5f * dKl)));
      });
    }
  });
}

// ---- the nearest code: a vector of pixels beside each code in turn
// ----------------------------------------------------

size_t scratch(const CpuDevice& device, const NearestCode& op) {
  return size_t(device.pool.threads()) * op.z.c * kWidth * sizeof(float);
}

void run(CpuDevice& device, const NearestCode& op, void* scratch) {
  const int64_t rows = op.z.rows(), c = op.z.c;
  device.pool.parallelFor((rows + kWidth - 1) / kWidth, [&](int64_t task, int thread) {
    float* z = static_cast<float*>(scratch) + thread * c * kWidth;  // [c][pixel]
    const int64_t first = task * kWidth;
    for (int64_t j = 0; j < kWidth; ++j) {
      const int64_t row = first + j < rows ? first + j : rows - 1;
      for (int64_t i = 0; i < c; ++i) z[i * kWidth + j] = op.z.f32()[row * op.z.ld + i];
    }
    vf least = broadcast(__builtin_inff()), nearest = zero();
    for (int64_t k = 0; k < op.codebook.n; ++k) {
      const float* code = op.codebook.f32() + k * op.codebook.ld;
      vf distance = zero();
      for (int64_t i = 0; i < c; ++i) {
        const vf d = load(z + i * kWidth) - code[i];
        distance += d * d;
      }
      nearest = select(distance < least, broadcast(float(k)), nearest);
      least = select(distance < least, distance, least);
    }
    float numbers[kWidth];
    store(numbers, nearest);
    for (int64_t j = 0; j < kWidth && first + j < rows; ++j) {
      op.index.i32()[(first + j) * op.index.ld] = int32_t(numbers[j]);
      if (op.number) op.number.f32()[(first + j) * op.number.ld] = numbers[j];
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
