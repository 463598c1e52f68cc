// The table of NCCL's operations that a device has (backend.h).
#pragma once
#include "kernels/backend.h"

namespace ddpm::cuda::nccl {

const Links* links();

}  // namespace ddpm::cuda::nccl
