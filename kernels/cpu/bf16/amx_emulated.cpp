// AMX's kernel on emulated tiles; for tests.
#include "kernels/cpu/bf16/tiles_emulated.h"

namespace ddpm::cpu::DDPM_ISA {

extern const bf16::Kernel kBf16;
const bf16::Kernel kBf16 = amxKernel<EmulatedTiles>("amx-emulated");

}  // namespace ddpm::cpu::DDPM_ISA
