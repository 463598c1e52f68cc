// Winograd convolution as the convolution's files call it: the algorithm of Conv2d, Conv2dDgrad, Conv2dWgrad and
// ConvPackWeights where `algo` is winograd4 or winograd2, which do 3x3 filters of stride 1 with any padding, or, where
// the input is upsampled and the padding is 1, winogradUpsample. What they compute is in winograd_transform.h.
#pragma once
#include "kernels/cpu/conv2d.h"

namespace ddpm::cpu::DDPM_ISA {

inline bool isWinograd(ConvAlgo algo) {
  return algo == ConvAlgo::winograd4 || algo == ConvAlgo::winograd2 || algo == ConvAlgo::winogradUpsample;
}

size_t winogradPackedFloats(ConvAlgo algo, int channels, int depth);
void packWinograd(CpuDevice& device, const ConvPackWeights& op);

size_t winogradScratch(const CpuDevice& device, const Conv2d& op);
void runWinograd(CpuDevice& device, const Conv2d& op, void* scratch);
size_t winogradScratch(const CpuDevice& device, const Conv2dDgrad& op);
void runWinograd(CpuDevice& device, const Conv2dDgrad& op, void* scratch);
size_t winogradScratch(const CpuDevice& device, const Conv2dWgrad& op);
void runWinograd(CpuDevice& device, const Conv2dWgrad& op, void* scratch);

}  // namespace ddpm::cpu::DDPM_ISA
