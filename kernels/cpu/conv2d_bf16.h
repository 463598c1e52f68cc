// Direct convolution of operands that are rounded to bf16 (ConvAlgo::directBf16).
#pragma once
#include "kernels/cpu/conv2d_gemm.h"

namespace ddpm::cpu::DDPM_ISA {

size_t bf16Scratch(const CpuDevice& device, const Gemm& g);
void runBf16(CpuDevice& device, const Gemm& g, void* scratch);

// All weights as panels of pairs (bf16/kernel.h), [panel][tap][pair][width].
int64_t bf16PanelBytes(const CpuDevice& device, const Filters& f);
void packBf16(CpuDevice& device, const Filters& f, uint32_t* to);

}  // namespace ddpm::cpu::DDPM_ISA
