// One vector of floats of the instruction set that this file is compiled for, and what the kernels need to do with it.
// GCC and Clang vector extensions give + - * / and comparisons on `vf` and `vi`; a comparison gives a mask (`vi`, all
// bits or none). `a * b + c` is one fused multiply-add where there is one (-ffp-contract=fast).
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define DDPM_INLINE inline __attribute__((always_inline))

namespace ddpm::cpu::DDPM_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;  // SSE2, NEON
#endif

typedef float vf __attribute__((vector_size(kWidth * 4)));
typedef int32_t vi __attribute__((vector_size(kWidth * 4)));
typedef uint32_t vu __attribute__((vector_size(kWidth * 4)));

// ---- load and store; nothing need be aligned
// --------------------------------------------------------------------------

DDPM_INLINE vf load(const float* p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
DDPM_INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
DDPM_INLINE vi loadInt(const int32_t* p) {
  vi v;
  memcpy(&v, p, sizeof v);
  return v;
}

DDPM_INLINE vf broadcast(float x) { return x - vf{}; }  // x - 0 is x for every x, -0 and NaN included
DDPM_INLINE vi broadcastInt(int32_t x) { return x - vi{}; }
DDPM_INLINE vf zero() { return vf{}; }

DDPM_INLINE vi asInt(vf v) {
  vi r;
  memcpy(&r, &v, sizeof r);
  return r;
}
DDPM_INLINE vf asFloat(vi v) {
  vf r;
  memcpy(&r, &v, sizeof r);
  return r;
}

// 0, 1, 2, ...
DDPM_INLINE vi iota() {
  vi v;
  for (int i = 0; i < kWidth; ++i) v[i] = i;
  return v;
}

// The first n elements, 0 <= n <= kWidth; the others read as 0 and their memory is not touched.
DDPM_INLINE vf loadPart(const float* p, int n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#elif defined(__AVX2__)
  return (vf)_mm256_maskload_ps(p, (__m256i)(iota() < broadcastInt(n)));
#else
  vf v = zero();
  for (int i = 0; i < kWidth; ++i)
    if (i < n) v[i] = p[i];
  return v;
#endif
}
DDPM_INLINE void storePart(float* p, vf v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, (__m256i)(iota() < broadcastInt(n)), (__m256)v);
#else
  for (int i = 0; i < kWidth; ++i)
    if (i < n) p[i] = v[i];
#endif
}

// ---- transposition
// ----------------------------------------------------------------------------------------------------

// Element i is element from[i] of a and b, counted through; `from` is constant.
DDPM_INLINE vf pick(vf a, vf b, vi from) {
#if defined(__clang__)
  vf v;
  for (int i = 0; i < kWidth; ++i) v[i] = from[i] < kWidth ? a[from[i]] : b[from[i] - kWidth];
  return v;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// rows[i][j] becomes rows[j][i]: of squares of 2 * Step, the two squares of Step off the diagonal change places.
template <int Step = 1>
DDPM_INLINE void transpose(vf (&rows)[kWidth]) {
  vi upper, lower;
  for (int i = 0; i < kWidth; ++i) {
    upper[i] = i & Step ? kWidth + i - Step : i;
    lower[i] = i & Step ? kWidth + i : i + Step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i)
    if (!(i & Step)) {
      const vf a = rows[i], b = rows[i + Step];
      rows[i] = pick(a, b, upper);
      rows[i + Step] = pick(a, b, lower);
    }
  if constexpr (2 * Step < kWidth) transpose<2 * Step>(rows);
}

// a[0], b[0], a[1], b[1] ... of the first halves of a and b, or of the second.
DDPM_INLINE vf interleave(vf a, vf b, bool second) {
  vi from;
  for (int i = 0; i < kWidth; ++i) from[i] = (second ? kWidth / 2 : 0) + i / 2 + (i % 2) * kWidth;
  return pick(a, b, from);
}

// ---- elementwise --------------------------------------------------------------------------------------------------

DDPM_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
DDPM_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
// NaN in either gives b.
DDPM_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
DDPM_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
DDPM_INLINE vf abs(vf a) { return asFloat(asInt(a) & 0x7FFFFFFF); }
DDPM_INLINE vf copySign(vf magnitude, vf sign) {
  return asFloat((asInt(magnitude) & 0x7FFFFFFF) | (asInt(sign) & int32_t(0x80000000)));
}
DDPM_INLINE vf toFloat(vi a) { return __builtin_convertvector(a, vf); }
DDPM_INLINE vi toInt(vf a) { return __builtin_convertvector(a, vi); }  // towards zero

// The lower and upper words of the products a[i] * m.
struct Product {
  vu low, high;
};
DDPM_INLINE Product multiplyWide(vu a, uint32_t m) {
#if defined(__SSE2__)
  typedef uint64_t vw __attribute__((vector_size(kWidth * 4)));
  const vw factor = m - vw{}, even = (vw)a, odd = even >> 32;
#if defined(__AVX512F__)
  const vw p = (vw)_mm512_maskz_mul_epu32(0xFF, (__m512i)even, (__m512i)factor);
  const vw q = (vw)_mm512_maskz_mul_epu32(0xFF, (__m512i)odd, (__m512i)factor);
#elif defined(__AVX2__)
  const vw p = (vw)_mm256_mul_epu32((__m256i)even, (__m256i)factor);
  const vw q = (vw)_mm256_mul_epu32((__m256i)odd, (__m256i)factor);
#else
  const vw p = (vw)_mm_mul_epu32((__m128i)even, (__m128i)factor);
  const vw q = (vw)_mm_mul_epu32((__m128i)odd, (__m128i)factor);
#endif
  constexpr uint64_t kLow = 0xFFFFFFFF;
  return {(vu)((p & kLow) | (q << 32)), (vu)((p >> 32) | (q & ~kLow))};
#else
  Product r;
  for (int i = 0; i < kWidth; ++i) {
    const uint64_t p = uint64_t(a[i]) * m;
    r.low[i] = uint32_t(p);
    r.high[i] = uint32_t(p >> 32);
  }
  return r;
#endif
}

DDPM_INLINE vf sqrt(vf a) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)a);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)a);
#elif defined(__aarch64__)
  return (vf)vsqrtq_f32((float32x4_t)a);
#else
  for (int i = 0; i < kWidth; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

// ---- over the elements of one vector, always in the same order
// -----------------------------------------------------------

DDPM_INLINE float sum(vf v) {
  float t[kWidth];
  store(t, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
}
DDPM_INLINE float maxElement(vf v) {
  float t[kWidth];
  store(t, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
  return t[0];
}

// ---- functions; polynomials are minimax fits, errors of 1 to 2.5 ulp, right at infinities and for NaN
// -----------------------------

// Gradual underflow included.
DDPM_INLINE vf exp(vf x) {
  x = select(x > 89.0f, broadcast(89.0f), x);  // keeps NaN
  x = select(x < -104.0f, broadcast(-104.0f), x);
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const vf shifted = x * 1.44269504f + 12582912.0f;
  const vf n = shifted - 12582912.0f;
  vf r = n * -0.693145752f + x;
  r = n * -1.42860677e-6f + r;
  vf p = 0.00139504559f * r + 0.00836888755f;
  p = p * r + 0.0416662064f;
  p = p * r + 0.166665189f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  p = p + 1.0f;
  // 2^n in two factors, each of them a normal number.
  const vi i = asInt(shifted) - 0x4B400000;
  const vi half = i >> 1;
  return p * asFloat((half + 127) << 23) * asFloat((i - half + 127) << 23);
}

// exp of x clamped to [-87, 88], where the result is a normal number; plus `addend`. Half of exp's latency.
DDPM_INLINE vf expClamped(vf x, vf addend = vf{}) {
  x = min(broadcast(88.0f), max(broadcast(-87.0f), x));  // keeps NaN
  const vf shifted = x * 1.44269504f + 12582912.0f;
  const vf n = shifted - 12582912.0f;
  vf r = n * -0.693145752f + x;
  r = n * -1.42860677e-6f + r;
  const vf r2 = r * r;
  const vf high = (0.00139504559f * r2) + (0.00836888755f * r + 0.0416662064f);
  const vf p = (high * r2 + (0.166665189f * r + 0.5f)) * r2 + (r + 1.0f);
  return p * asFloat((asInt(shifted) << 23) + 0x3F800000) + addend;
}

// 2^x for x <= 127; below -126 it is nearly 0. Several at once, since one alone is a long chain.
template <int Count>
DDPM_INLINE void exp2All(vf (&x)[Count]) {
  vf n[Count], p[Count];
  for (int i = 0; i < Count; ++i) {
#if defined(__AVX512DQ__)
    const vf f = (vf)_mm512_maskz_reduce_ps(0xFFFF, (__m512)x[i], 0);  // x less the nearest integer
    n[i] = x[i] - f;
    x[i] = f;
#else
    x[i] = max(broadcast(-126.0f), x[i]);  // keeps NaN
    n[i] = x[i] + 12582912.0f;
    x[i] = x[i] - (n[i] - 12582912.0f);
#endif
  }
  for (int i = 0; i < Count; ++i) p[i] = 0.000154697320f * x[i] + 0.0013410001f;
  for (int i = 0; i < Count; ++i) p[i] = p[i] * x[i] + 0.00961803078f;
  for (int i = 0; i < Count; ++i) p[i] = p[i] * x[i] + 0.0555029731f;
  for (int i = 0; i < Count; ++i) p[i] = p[i] * x[i] + 0.240226511f;
  for (int i = 0; i < Count; ++i) p[i] = p[i] * x[i] + 0.693147225f;
  for (int i = 0; i < Count; ++i) p[i] = p[i] * x[i] + 1.0f;
  for (int i = 0; i < Count; ++i)
#if defined(__AVX512DQ__)
    x[i] = (vf)_mm512_maskz_scalef_ps(0xFFFF, (__m512)p[i], (__m512)n[i]);
#else
    x[i] = p[i] * asFloat((asInt(n[i]) << 23) + 0x3F800000);
#endif
}

DDPM_INLINE vf sigmoid(vf x) { return 1.0f / expClamped(-x, broadcast(1.0f)); }

// silu(x) = x sigmoid(x) and its derivative.
DDPM_INLINE vf silu(vf x) { return x / expClamped(-x, broadcast(1.0f)); }
DDPM_INLINE vf siluSlope(vf x) {
  const vf s = sigmoid(x);
  return s * (x * (1.0f - s) + 1.0f);
}

DDPM_INLINE vf tanh(vf x) {
  const vf a = abs(x), s = x * x;
  vf p = -0.00570497442f * s + 0.0206390751f;
  p = p * s - 0.053739711f;
  p = p * s + 0.133314421f;
  p = p * s - 0.333332819f;
  const vf small = p * s * x + x;
  const vf large = copySign(1.0f - 2.0f / (exp(a + a) + 1.0f), x);
  return select(a < 0.625f, small, large);  // NaN: `large`, which is NaN
}

DDPM_INLINE vf erf(vf x) {
  const vf a = abs(x), s = x * x;
  vf p = -0.000586581229f * s + 0.00496844103f;
  p = p * s - 0.026749717f;
  p = p * s + 0.112813548f;
  p = p * s - 0.376124515f;
  p = p * s + 0.128379145f;
  const vf small = p * x + x;
  // ln(1 - erf a) on [0.95, 4]; beyond, 1 - erf a is less than half an ulp of 1.
  const vf t = select(a > 4.0f, broadcast(4.0f), a);
  vf q = -0.000127359368f * t * t + 0.0105793848f;
  q = q * t - 0.080711179f;
  q = q * t - 0.662637777f;
  q = q * t - 1.11311052f;
  q = q * t - 0.0035978458f;
  const vf large = copySign(1.0f - exp(q), x);
  return select(a < 0.95f, small, large);
}

}  // namespace ddpm::cpu::DDPM_ISA
