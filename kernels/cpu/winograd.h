// Winograd convolution as the convolution's files call it: the algorithm of Conv2d, Conv2dDgrad and
// Conv2dWgrad where `algo` is winograd4 or winograd2, which do 3x3 filters of stride 1 with any padding, or, where the
// input is upsampled and the padding is 1, winogradUpsample. What they compute is in winograd_transform.h.
#pragma once
#include "kernels/cpu/panels.h"

namespace ddpm::cpu::DDPM_ISA {

inline bool isWinograd(ConvAlgo algo) {
  return algo == ConvAlgo::winograd4 || algo == ConvAlgo::winograd2 || algo == ConvAlgo::winogradUpsample;
}

// All filters transformed, as [point][panel][depth][panelWidth], a cache line more at each point.
size_t winogradFloats(ConvAlgo algo, const Filters& f);
void packWinograd(CpuDevice& device, ConvAlgo algo, const Filters& f, float* to);

// The steps [begin, end) of the depth of the panel whose channels start at `first`, to
// to[point * pointFloats + (step - begin) * width + i]; `ahead` as packTap's. F of winograd_transform.h.
template <class F>
void transformFilters(const Filters& f, int first, int begin, int end, float* to, int64_t pointFloats, int64_t ahead);

size_t winogradScratch(const CpuDevice& device, const Conv2d& op);
void runWinograd(CpuDevice& device, const Conv2d& op, void* scratch);
size_t winogradScratch(const CpuDevice& device, const Conv2dDgrad& op);
void runWinograd(CpuDevice& device, const Conv2dDgrad& op, void* scratch);
size_t winogradScratch(const CpuDevice& device, const Conv2dWgrad& op);
void runWinograd(CpuDevice& device, const Conv2dWgrad& op, void* scratch);

}  // namespace ddpm::cpu::DDPM_ISA
