// AVX512-BF16: VDPBF16PS adds two products to each of 16 sums, the odd elements' first. A tile of kRows rows x two
// vectors of columns stays in registers, as in float32 (conv2d.h), with a pair in place of a float.
#include "kernels/cpu/bf16/pack.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kRows = 10;

DDPM_INLINE __m512 multiplyAdd(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// Not inlined: among other tiles, GCC finds no registers for its sums.
template <int M, int V>
__attribute__((noinline)) void tile(const bf16::Product& o) {
  const uint32_t* row[M];
  for (int m = 0; m < M; ++m) row[m] = o.rows[m];
  __m512 sums[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      sums[m][v] = o.adds ? _mm512_loadu_ps(o.sums + m * bf16::kColumns + v * 16) : _mm512_setzero_ps();
  const uint32_t* panel = o.panel;
  const int64_t ahead = o.ahead, pairs = o.pairs;
#pragma GCC unroll 4
  for (int64_t p = 0; p < pairs; ++p) {
    __builtin_prefetch(panel + p * V * 16 + ahead);
    __m512i column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) column[v] = _mm512_loadu_si512(panel + (p * V + v) * 16);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const __m512i x = _mm512_set1_epi32(int(row[m][p]));
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[m][v] = multiplyAdd(sums[m][v], column[v], x);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(o.sums + m * bf16::kColumns + v * 16, sums[m][v]);
}

template <int M = kRows>
void multiplyRows(const bf16::Product& o) {
  if constexpr (M > 1) {
    if (o.count < M) return multiplyRows<M - 1>(o);
  }
  o.width == bf16::kColumns ? tile<M, 2>(o) : tile<M, 1>(o);
}

void multiply(const bf16::Product& o) { multiplyRows(o); }

}  // namespace

extern const bf16::Kernel kBf16;
const bf16::Kernel kBf16 = {"avx512bf16", kRows, 1, 1.9, roundRow, packMatrix, multiply};

}  // namespace ddpm::cpu::DDPM_ISA
