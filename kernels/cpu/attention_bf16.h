// Attention whose operands are rounded to bf16 (ops.h, Attention::products).
#pragma once
#include "kernels/cpu/device.h"

namespace ddpm::cpu::DDPM_ISA {

size_t bf16Scratch(const CpuDevice& device, const Attention& op);
void runBf16(CpuDevice& device, const Attention& op, void* scratch);

}  // namespace ddpm::cpu::DDPM_ISA
