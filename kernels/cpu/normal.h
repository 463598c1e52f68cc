// Random numbers of kernels/philox.h in bulk.
#pragma once
#include <cstdint>

#include "kernels/philox.h"

namespace ddpm::cpu::DDPM_ISA {

// y[i] = normal number begin + i of the stream (seed, purpose, sample, step), 0 <= i < count. begin is a multiple of 4.
// The bits are the same for every instruction set.
void fillNormal(const uint32_t* seed, Purpose purpose, uint32_t sample, uint32_t step, int64_t begin, int64_t count,
                float* y);

}  // namespace ddpm::cpu::DDPM_ISA
