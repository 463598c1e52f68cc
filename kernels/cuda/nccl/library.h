// NCCL as it is found on this machine.
#pragma once
#include <string>

#include "kernels/cuda/nccl/api.h"

namespace ddpm::cuda::nccl {

struct Library {
  Api api;
  std::string folder;
  std::string version;  // "2.23.4"
};

// The library, opened when it is first asked for and never closed; null with the reason in `why`. Looked for where
// ncclPlace() says (tuning.h). Any thread.
const Library* library(std::string* why);

}  // namespace ddpm::cuda::nccl
