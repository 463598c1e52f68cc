// The CPU backend, linked into the addon.
#pragma once
#include "kernels/backend.h"

namespace ddpm {

// Never null. Its kernels are those of the best instruction set of this machine, or of DDPM_CPU_ISA (portable, avx2,
// avx512); where that is unknown or missing here, deviceCount is 0 and open fails with the reason.
const Backend* cpuBackend();

}  // namespace ddpm
