// What every file of the CPU backend sees, and how an op is written.
//
// The kernels are compiled once for each instruction set (DDPM_ISA = portable, avx2, avx512; see CMakeLists.txt), each
// time into a namespace of that name, and one of them is chosen at run time. An op's file defines
//
//     namespace ddpm::cpu::DDPM_ISA {
//     void run(CpuDevice& device, const Op& op, void* scratch) { ... }
//     }
//
// and, if it wants scratch memory, is named in DDPM_CPU_SCRATCH_OPS and defines
//
//     size_t scratch(const CpuDevice& device, const Op& op)     // from shapes only; data pointers may be null
//
// table.cpp collects them. `scratch` is 64-byte aligned. run() may throw std::exception (it becomes an Error), but not
// inside a parallel loop. It computes the same whatever the number of threads.
//
// Only code in the namespace of the instruction set may be compiled for it. An inline function or template of std::
// that is not inlined is merged by the linker over all of them, and AVX2 code would then run on a machine that has
// none: so kernels use plain arrays, own helpers and simd.h, not the standard library.
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/threads.h"

namespace ddpm::cpu {

namespace bf16 {
struct Kernel;
}

struct CpuDevice {
  CpuDevice(int threads, const bf16::Kernel* bf16) : pool(threads), bf16(bf16) {}
  ThreadPool pool;
  const bf16::Kernel* bf16;  // what computes products of precision bf16; null: nothing does
};

// Ops that want scratch memory.
// clang-format off
#define DDPM_CPU_SCRATCH_OPS(X)                                                            \
  X(Conv2d) X(Conv2dDgrad) X(Conv2dWgrad)                                                  \
  X(GroupNorm) X(GroupNormBackward) X(LayerNormBackward) X(Attention) X(AttentionBackward) \
  X(LinearAttention) X(LinearAttentionBackward) X(SumPixels) X(ScaleShiftBackward) X(NearestCode)
// clang-format on

inline constexpr int kCacheLine = 64;

void setError(Error* error, ErrorCode code, const char* message);

#ifdef DDPM_ISA
namespace DDPM_ISA {

#define DDPM_DECLARE_RUN(Op) void run(CpuDevice& device, const Op& op, void* scratch);
DDPM_OPS(DDPM_DECLARE_RUN)
#undef DDPM_DECLARE_RUN

#define DDPM_DECLARE_SCRATCH(Op) size_t scratch(const CpuDevice& device, const Op& op);
DDPM_CPU_SCRATCH_OPS(DDPM_DECLARE_SCRATCH)
#undef DDPM_DECLARE_SCRATCH

// Algorithms of convolutions; see Backend.
ConvPlan planConv(const CpuDevice& device, const Conv2d& op, const PlanOptions& options);
ConvPlan planDgrad(const CpuDevice& device, const Conv2dDgrad& op, const PlanOptions& options);
ConvAlgo planWgrad(const CpuDevice& device, const Conv2dWgrad& op, const PlanOptions& options);

// Sets every kernel and plan function of a backend to those of this instruction set.
void fill(Backend& backend);

}  // namespace DDPM_ISA
#endif
}  // namespace ddpm::cpu
