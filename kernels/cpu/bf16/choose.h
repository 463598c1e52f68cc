// Which implementation of bf16 products a process has.
#pragma once
#include <string>

#include "kernels/cpu/bf16/kernel.h"

namespace ddpm::cpu::bf16 {

struct Choice {
  const Kernel* kernel;  // null: none
  std::string lacks;     // then, what the processor would have to have
  std::string error;     // why DDPM_CPU_BF16 can't be had
};

// The best that the processor has, where it has one that is faster than float32 and `isa` has AVX-512 (DDPM_CPU_ISA
// keeps it from being used, too), or the one that DDPM_CPU_BF16 names; 'off' for none.
Choice choose(bool hasAvx512);

}  // namespace ddpm::cpu::bf16
