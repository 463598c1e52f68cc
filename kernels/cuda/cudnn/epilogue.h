// What a plan of cuDNN leaves to kernels of our own.
#pragma once
#include "kernels/cuda/conv_problem.h"
#include "kernels/cuda/device.h"

namespace ddpm::cuda::cudnn {

// The problem's result from that of the convolution alone, a dense tensor: forward and dgrad, result = convolution +
// the addends; wgrad, result += convolution, and dBias? too.
void finish(CudaDevice& device, const ConvProblem& problem, const Tensor& convolution, void* scratch);
size_t finishScratch(const ConvProblem& problem);

}  // namespace ddpm::cuda::cudnn
