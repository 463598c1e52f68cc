// What a backend reports, as the error of native/.
#pragma once
#include "kernels/backend.h"
#include "native/graph/error.h"

namespace ddpm {

Failure toFailure(const Error& error);

}  // namespace ddpm
