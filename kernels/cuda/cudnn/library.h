// cuDNN as it is found on this machine.
#pragma once
#include <string>

#include "kernels/cuda/cudnn/api.h"

namespace ddpm::cuda::cudnn {

struct Library {
  Api api;
  std::string folder;   // of all its parts
  std::string version;  // "9.5.1"
};

// The library, opened when it is first asked for and never closed; null with the reason in `why`. Looked for where
// cudnnPlace() says (tuning.h). Any thread.
const Library* library(std::string* why);

// Which it is, or why there is none, for reports: "cuDNN 9.5.1 in /usr/lib".
std::string description();

}  // namespace ddpm::cuda::cudnn
