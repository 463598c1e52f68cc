// Attention with 16-bit operands, on tensor cores; attention.cu has it in f32.
#pragma once
#include "kernels/cuda/device.h"

namespace ddpm::cuda {

void runNarrow(CudaDevice& device, const Attention& op);
void runNarrow(CudaDevice& device, const AttentionBackward& op, void* scratch);  // scratch as for f32

}  // namespace ddpm::cuda
