// Counter-based random numbers: the same bits on every backend, in any batch, order and process.
//
// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the 64-bit seed. A stream
// is named by (purpose, sample, step); its element e is number e%4 of the block with counter {e/4, step, sample,
// purpose}.
//
// Only +, -, *, / , fma, sqrt and integer operations are used, each of them correctly rounded by IEEE 754, in a fixed
// order and without contraction: so CPU, CUDA and the host build of CUDA agree to the last bit. Host files that include
// this are compiled with -ffp-contract=off where these functions are used; on the device the __f*_rn intrinsics say the
// same.
#pragma once
#include <cstdint>

#if defined(__CUDA_ARCH__)
#define DDPM_HD __host__ __device__ __forceinline__
#define DDPM_MUL(a, b) __fmul_rn(a, b)
#define DDPM_ADD(a, b) __fadd_rn(a, b)
#define DDPM_FMA(a, b, c) __fmaf_rn(a, b, c)
#define DDPM_DIV(a, b) __fdiv_rn(a, b)
#define DDPM_SQRT(a) __fsqrt_rn(a)
#else
#include <cmath>
#ifdef __CUDACC__
#define DDPM_HD __host__ __device__ __forceinline__
#else
// Internal linkage: files compiled for different instruction sets must not share one copy.
#define DDPM_HD static inline
#endif
#define DDPM_MUL(a, b) ((a) * (b))
#define DDPM_ADD(a, b) ((a) + (b))
#define DDPM_FMA(a, b, c) std::fma(a, b, c)
#define DDPM_DIV(a, b) ((a) / (b))
#define DDPM_SQRT(a) std::sqrt(a)
#endif

namespace ddpm {

// What a stream is for, so that streams of one seed never meet. lib/rng.ts has the same list.
enum class Purpose : int32_t {
  initial = 0,    // x_T; step 0
  posterior = 1,  // noise of a sampling step; step: how many steps have been taken, from 0
  training = 2,   // noise of q_sample in training; step: the training step
  timesteps = 3,  // timesteps of a training batch
  dropout = 4,
  weights = 5,  // initial weights; sample: the parameter's index
  data = 6,     // order, flips
  user = 7,     // randn for the user
  latent = 8,   // a first stage's: the noise of a posterior's sample; codes of unknown entries
};

// The multipliers, and what is added to the key after each of the ten rounds.
constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct Philox4 {
  uint32_t v[4];
};

DDPM_HD Philox4 philox4x32(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = uint64_t(kPhiloxM0) * c0, b = uint64_t(kPhiloxM1) * c2;
    const uint32_t d0 = uint32_t(b >> 32) ^ c1 ^ k0, d2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b);
    c3 = uint32_t(a);
    c0 = d0;
    c2 = d2;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

// (0, 1): 23 bits of the word and half of the last place, so that neither end is reached.
DDPM_HD float uniform01(uint32_t x) { return DDPM_FMA(float(x >> 9), 0x1p-23f, 0x1p-24f); }

// ln(u) for u in (0, 1), within 2 ulp: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m-1)/(m+1)).
DDPM_HD float logUniform(float u) {
  union {
    float f;
    uint32_t i;
  } bits;
  bits.f = u;
  int e = int(bits.i >> 23) - 127;
  bits.i = (bits.i & 0x007FFFFFu) | 0x3F800000u;
  float m = bits.f;
  if (m > 1.41421356f) {
    m = DDPM_MUL(m, 0.5f);
    e += 1;
  }
  const float s = DDPM_DIV(DDPM_ADD(m, -1.0f), DDPM_ADD(m, 1.0f));
  const float s2 = DDPM_MUL(s, s);
  float p = 0.22222222f;  // 2/9, 2/7, 2/5, 2/3: the series of 2 artanh(s)
  p = DDPM_FMA(p, s2, 0.28571429f);
  p = DDPM_FMA(p, s2, 0.4f);
  p = DDPM_FMA(p, s2, 0.66666667f);
  p = DDPM_MUL(DDPM_MUL(p, s2), s);
  const float lnM = DDPM_FMA(2.0f, s, p);
  return DDPM_FMA(float(e), 0.693147181f, lnM);
}

struct CosSin {
  float cos, sin;
};

// cos and sin of 2*pi*u for u in (0, 1): the quadrant from 4u, Taylor polynomials on [-pi/4, pi/4].
DDPM_HD CosSin cosSinTurn(float u) {
  const float q4 = DDPM_MUL(4.0f, u);
  const int q = int(DDPM_ADD(q4, 0.5f));
  const float a = DDPM_MUL(DDPM_ADD(q4, -float(q)), 1.57079633f);
  const float a2 = DDPM_MUL(a, a);
  float s = 2.75573192e-6f;
  s = DDPM_FMA(s, a2, -1.98412698e-4f);
  s = DDPM_FMA(s, a2, 8.33333333e-3f);
  s = DDPM_FMA(s, a2, -0.166666667f);
  s = DDPM_FMA(DDPM_MUL(s, a2), a, a);
  float c = 2.48015873e-5f;
  c = DDPM_FMA(c, a2, -1.38888889e-3f);
  c = DDPM_FMA(c, a2, 4.16666667e-2f);
  c = DDPM_FMA(c, a2, -0.5f);
  c = DDPM_FMA(c, a2, 1.0f);
  const int k = q & 3;
  const float x = (k & 1) ? s : c, y = (k & 1) ? c : s;
  return {(k == 1 || k == 2) ? -x : x, (k == 2 || k == 3) ? -y : y};
}

struct Normal4 {
  float v[4];
};

// Four normal numbers of one block: Box & Muller 1958, on words (0,1) and (2,3).
DDPM_HD Normal4 normal4(uint32_t k0, uint32_t k1, uint32_t block, uint32_t step, uint32_t sample, uint32_t purpose) {
  const Philox4 r = philox4x32(k0, k1, block, step, sample, purpose);
  Normal4 out;
  for (int i = 0; i < 2; ++i) {
    const float radius = DDPM_SQRT(DDPM_MUL(-2.0f, logUniform(uniform01(r.v[2 * i]))));
    const CosSin d = cosSinTurn(uniform01(r.v[2 * i + 1]));
    out.v[2 * i] = DDPM_MUL(radius, d.cos);
    out.v[2 * i + 1] = DDPM_MUL(radius, d.sin);
  }
  return out;
}

}  // namespace ddpm
