// What every kernel includes: the language (a GPU's, or its execution on the CPU), and the instructions that CUDA C++
// has no word for. Inline PTX stands here only, each function with its meaning on the CPU beside it, as the PTX ISA
// documents it.
#pragma once
#ifdef __CUDACC__
#include "kernels/cuda/gpu.cuh"
#else
#include "kernels/cuda/host/float16.h"
#include "kernels/cuda/host/grid.h"
#include "kernels/cuda/host/memory.h"
#include "kernels/cuda/host/mma.h"
#endif
#include "kernels/philox.h"

namespace ddpm::cuda {

// ---------------------------------------------------------------------------------------------------------------------
// cp.async: `Bytes` (4, 8 or 16) from global to shared memory, without passing through registers; zeros when not
// `valid` (and then `from` is not read). The copies of a thread since its last commit are a group.

template <int Bytes, class To, class From>
__device__ __forceinline__ void cpAsync(const Shared<To>& to, int i, const Global<const From>& from, int64_t j,
                                        bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  constexpr int kTo = Bytes / int(sizeof(To)), kFrom = Bytes / int(sizeof(From));
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(to.at(i, kTo)));
  const From* source = from.at(valid ? j : 0, kFrom);
  const int size = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(source), "n"(Bytes), "r"(size)
                 : "memory");
#else
  To* target = to.at(i, kTo);
  const From* source = valid ? from.at(j, kFrom) : nullptr;
  if (uintptr_t(target) % Bytes) host::misaligned(target, Bytes);
  if (uintptr_t(source) % Bytes) host::misaligned(source, Bytes);
  host::copyAsync(target, source, Bytes, valid ? Bytes : 0);
#endif
}

__device__ __forceinline__ void cpAsyncCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host::commitAsync();
#endif
}

// Waits until all but the last `Pending` groups of this thread have arrived; __syncthreads() shows them to the others.
template <int Pending>
__device__ __forceinline__ void cpAsyncWait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#else
  host::waitAsync(Pending);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// The bits of a float.

__device__ __forceinline__ int bitsOf(float x) {
#ifdef __CUDACC__
  return __float_as_int(x);
#else
  return std::bit_cast<int>(x);
#endif
}
__device__ __forceinline__ float floatOf(int bits) {
#ifdef __CUDACC__
  return __int_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// 16-bit numbers, two in a word: the first in its low half. `Half` and `Bfloat16` name the format.

struct Half {};
struct Bfloat16 {};

template <class Format>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  constexpr bool kHalf = std::is_same_v<Format, Half>;
#ifdef __CUDACC__
  uint32_t word;
  if constexpr (kHalf)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  const auto convert = kHalf ? host::toHalf : host::toBfloat16;
  return convert(low) | uint32_t(convert(high)) << 16;
#endif
}

template <class Format>
__device__ __forceinline__ Vec<float, 2> unpack(uint32_t word) {
  constexpr bool kHalf = std::is_same_v<Format, Half>;
#ifdef __CUDACC__
  if constexpr (kHalf) {
    Vec<float, 2> pair;
    asm("{.reg .f16 low, high;\n\t"
        "mov.b32 {low, high}, %2;\n\t"
        "cvt.f32.f16 %0, low;\n\t"
        "cvt.f32.f16 %1, high;}"
        : "=f"(pair.v[0]), "=f"(pair.v[1])
        : "r"(word));
    return pair;
  } else {
    return {{__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u)}};
  }
#else
  const auto convert = kHalf ? host::fromHalf : host::fromBfloat16;
  return {{convert(uint16_t(word)), convert(uint16_t(word >> 16))}};
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensor cores. A warp computes together; `lane` is its number in the warp, g = lane / 4, t = lane % 4.

// ldmatrix: four 8 x 8 matrices of 16-bit numbers. Lane 8 j + r gives the place of row r of matrix j, 16 bytes aligned
// to as many: word i of `from`. Word j of the result holds of matrix j row g, columns 2 t and 2 t + 1; with
// `transposed`, column g, rows 2 t and 2 t + 1.
template <bool transposed>
__device__ __forceinline__ Vec<uint32_t, 4> loadMatrices(const Shared<uint32_t>& from, int i) {
  Vec<uint32_t, 4> words;
#ifdef __CUDACC__
  const uint32_t address = uint32_t(__cvta_generic_to_shared(from.at(i, 4)));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.v[0]), "=r"(words.v[1]), "=r"(words.v[2]), "=r"(words.v[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.v[0]), "=r"(words.v[1]), "=r"(words.v[2]), "=r"(words.v[3])
                 : "r"(address)
                 : "memory");
#else
  using Row = Vec<uint16_t, 8>;
  const Vec<uint32_t, 4> mine = load<4>(from, i);  // the lane that names a row is the one that reads it
  const std::byte* rows = host::meetWarp(~0u, &mine, sizeof mine, false, host::Where::current());
  const int g = host::laneNumber() / 4, t = host::laneNumber() % 4;
  for (int j = 0; j < 4; ++j) {
    const auto at = [&](int r, int c) { return uint32_t(host::lanesValue<Row>(rows, 8 * j + r).v[c]); };
    words.v[j] = transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
#endif
  return words;
}

// mma m16n8k16: d += a b with a 16 x 16 and b 16 x 8 of 16-bit numbers, d 16 x 8 of f32. Of d a lane holds row g,
// columns 2 t and 2 t + 1, and the same of row g + 8. Words of a: row g, columns 2 t and 2 t + 1; row g + 8; row g,
// columns 2 t + 8 and on; row g + 8. Words of b: rows 2 t and 2 t + 1 of column g; rows 2 t + 8 and on.
template <class Format>
__device__ __forceinline__ void multiplyAdd(Vec<float, 4>& d, const Vec<uint32_t, 4>& a, const Vec<uint32_t, 2>& b) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<Format, Half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d.v[0]), "+f"(d.v[1]), "+f"(d.v[2]), "+f"(d.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d.v[0]), "+f"(d.v[1]), "+f"(d.v[2]), "+f"(d.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
#else
  host::multiplyAdd(d, a, b, host::Where::current(), [](uint32_t word) { return unpack<Format>(word); });
#endif
}

}  // namespace ddpm::cuda
