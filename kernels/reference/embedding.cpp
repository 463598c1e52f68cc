// Table lookup and the sinusoidal embedding of timesteps (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix
// B).
#include <cmath>

#include "kernels/reference/reference.h"

namespace ddpm::reference {

void run(const Embedding& op) {
  forEach(op.y, [&](int64_t n, int c) { at(op.y, n, c) = at(op.table, rowOf(op.table, op.index, int(n)), c); });
}

void run(const EmbeddingBackward& op) {
  forEach(op.dy, [&](int64_t n, int c) { at(op.dTable, rowOf(op.dTable, op.index, int(n)), c) += at(op.dy, n, c); });
}

// Exponent, frequency and angle are rounded to f32 where PyTorch rounds them: at t near 1000 the rounding of the angle
// shows in the fifth decimal, and it belongs to what trained models have seen.
void run(const TimestepEmbedding& op) {
  const int half = op.y.c / 2;
  for (int n = 0; n < op.y.n; ++n) {
    const float t = op.t.dtype == DType::i32 ? float(index(op.t, n)) : at(op.t, n, 0);
    for (int i = 0; i < half; ++i) {
      const float product = float(-std::log(double(op.maxPeriod))) * float(i);
      const float exponent = product / (float(half) - op.freqShift);
      const float frequency = float(std::exp(double(exponent)));
      const float angle = t * frequency;
      at(op.y, n, op.sinFirst ? half + i : i) = float(std::cos(double(angle)));
      at(op.y, n, op.sinFirst ? i : half + i) = float(std::sin(double(angle)));
    }
    if (op.y.c % 2) at(op.y, n, op.y.c - 1) = 0;
  }
}

// The logarithm and each product are rounded to f32 where PyTorch rounds them, as above.
void run(const FourierEmbedding& op) {
  const int half = op.weight.c;
  for (int n = 0; n < op.y.n; ++n) {
    const float t = op.t.dtype == DType::i32 ? float(index(op.t, n)) : at(op.t, n, 0);
    const float place = op.log ? float(std::log(double(t))) : t;
    for (int i = 0; i < half; ++i) {
      const float turns = 2 * (place * at(op.weight, 0, i));
      const float angle = turns * float(M_PI);
      at(op.y, n, op.sinFirst ? half + i : i) = float(std::cos(double(angle)));
      at(op.y, n, op.sinFirst ? i : half + i) = float(std::sin(double(angle)));
    }
  }
}

}  // namespace ddpm::reference
