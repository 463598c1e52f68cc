// The forward process, the posterior step and Gaussian noise: each sample n has its own row t[n] of a table.
#include "kernels/cpu/normal.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/table_row.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kChunk = 2048;  // elements of a task; a multiple of 4, where a block of random numbers starts

// f(n, begin, count) for pieces of the samples of t {N,1,1,D}.
template <class F>
void forPieces(CpuDevice& device, const Tensor& t, const F& f) {
  const int64_t chunks = (t.c + kChunk - 1) / kChunk;
  device.pool.parallelFor(t.n * chunks, [&](int64_t task, int) {
    const int64_t begin = task % chunks * kChunk;
    f(task / chunks, begin, t.c - begin < kChunk ? t.c - begin : kChunk);
  });
}

float* at(const Tensor& t, int64_t n, int64_t e) { return t.f32() + n * t.ld + e; }
int32_t index(const Tensor& t, int64_t n) { return t.i32()[n * t.ld]; }
const uint32_t* seed(const Tensor& rng) { return static_cast<const uint32_t*>(rng.data); }

}  // namespace

void run(CpuDevice& device, const TimestepAffine& op, void*) {
  forPieces(device, op.y, [&](int64_t n, int64_t begin, int64_t count) {
    const float a = *rowOf(op.a, op.t, n);
    const float* x = at(op.x, n, begin);
    float* y = at(op.y, n, begin);
    if (!op.z) {
      forChannels(count, [&](int64_t i, auto part) { part.store(y + i, a * part.load(x + i)); });
      return;
    }
    const float b = *rowOf(op.b, op.t, n);
    const float* z = at(op.z, op.z.n == 1 ? 0 : n, begin);
    forChannels(count, [&](int64_t i, auto part) { part.store(y + i, a * part.load(x + i) + b * part.load(z + i)); });
  });
}

void run(CpuDevice&, const Extract& op, void*) {
  for (int64_t n = 0; n < op.y.n; ++n) *at(op.y, n, 0) = *rowOf(op.table, op.t, n);
}

void run(CpuDevice&, const NextStep& op, void*) {
  for (int64_t n = 0; n < op.step.n; ++n) {
    ++op.step.i32()[n * op.step.ld];
    op.t.i32()[n * op.t.ld] = index(op.table, rowNumber(op.table, op.step, n));
  }
}

// Ho et al. 2020, eq. 7 and 11; Song et al. 2021, eq. 12. See ops.h for the table.
void run(CpuDevice& device, const PosteriorStep& op, void*) {
  forPieces(device, op.y, [&](int64_t n, int64_t begin, int64_t count) {
    const float* row = rowOf(op.table, op.t, n);
    const float *x = at(op.x, n, begin), *out = at(op.out, n, begin);
    const float scale = op.scale ? *at(op.scale, n, 0) : 1;
    const float* noise = op.noise ? at(op.noise, op.noise.n == 1 ? 0 : n, begin) : nullptr;
    float *y = at(op.y, n, begin), *x0 = op.x0 ? at(op.x0, n, begin) : nullptr;
    float drawn[kChunk];
    if (!noise && op.rng) {
      fillNormal(seed(op.rng), Purpose::posterior, uint32_t(index(op.sample, n)), uint32_t(index(op.step, n)), begin,
                 count, drawn);
      noise = drawn;
    }
    forChannels(count, [&](int64_t i, auto part) {
      const vf xi = part.load(x + i), outI = part.load(out + i);
      vf start = row[0] * xi + row[1] * outI;
      if (op.scale) start = start / scale;
      if (op.clip) start = min(broadcast(1), max(broadcast(-1), start));  // in this order, NaN stays NaN
      vf next = row[2] * start + row[3] * xi + row[4] * outI;
      if (noise) next = row[5] * part.load(noise + i) + next;
      if (x0) part.store(x0 + i, start);
      part.store(y + i, next);
    });
  });
}

void run(CpuDevice& device, const GaussianNoise& op, void*) {
  forPieces(device, op.y, [&](int64_t n, int64_t begin, int64_t count) {
    fillNormal(seed(op.rng), Purpose(op.purpose), uint32_t(index(op.sample, n)), uint32_t(index(op.step, n)), begin,
               count, at(op.y, n, begin));
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
