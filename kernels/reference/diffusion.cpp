// The forward process, the posterior step and Gaussian noise.
#include "kernels/philox.h"
#include "kernels/reference/reference.h"

namespace ddpm::reference {
namespace {

// Normal number e of a stream.
float normal(const Tensor& rng, Purpose purpose, int32_t sample, int32_t step, int e) {
  const uint32_t* seed = static_cast<const uint32_t*>(rng.data);
  return normal4(seed[0], seed[1], uint32_t(e / 4), uint32_t(step), uint32_t(sample), uint32_t(purpose)).v[e % 4];
}

}  // namespace

void run(const TimestepAffine& op) {
  forEach(op.y, [&](int64_t n, int e) {
    const int t = rowOf(op.a, op.t, int(n));
    double y = double(at(op.a, t, 0)) * at(op.x, n, e);
    if (op.z) y += double(at(op.b, t, 0)) * at(op.z, op.z.n == 1 ? 0 : n, e);
    at(op.y, n, e) = float(y);
  });
}

void run(const Extract& op) {
  for (int n = 0; n < op.y.n; ++n) at(op.y, n, 0) = at(op.table, rowOf(op.table, op.t, n), 0);
}

void run(const NextStep& op) {
  for (int n = 0; n < op.step.n; ++n) {
    op.step.i32()[int64_t(n) * op.step.ld] = index(op.step, n) + 1;
    op.t.i32()[int64_t(n) * op.t.ld] = index(op.table, rowOf(op.table, op.step, n));
  }
}

// Ho et al. 2020, eq. 7 and 11; Song et al. 2021, eq. 12. See ops.h for the table.
void run(const PosteriorStep& op) {
  forEach(op.y, [&](int64_t n, int e) {
    const float* row = op.table.f32() + int64_t(rowOf(op.table, op.t, int(n))) * op.table.ld;
    const double x = at(op.x, n, e), out = at(op.out, n, e);
    double x0 = row[0] * x + row[1] * out;
    if (op.scale) x0 /= at(op.scale, n, 0);
    if (op.clip) x0 = x0 < -1 ? -1 : x0 > 1 ? 1 : x0;
    double y = row[2] * x0 + row[3] * x + row[4] * out;
    if (op.noise) {
      y += double(row[5]) * at(op.noise, op.noise.n == 1 ? 0 : n, e);
    } else if (op.rng) {
      y += double(row[5]) * normal(op.rng, Purpose::posterior, index(op.sample, int(n)), index(op.step, int(n)), e);
    }
    if (op.x0) at(op.x0, n, e) = float(x0);
    at(op.y, n, e) = float(y);
  });
}

void run(const GaussianNoise& op) {
  forEach(op.y, [&](int64_t n, int e) {
    at(op.y, n, e) = normal(op.rng, Purpose(op.purpose), index(op.sample, int(n)), index(op.step, int(n)), e);
  });
}

}  // namespace ddpm::reference
