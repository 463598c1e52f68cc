// Finding backends: the CPU's is linked in, the others are libraries beside the addon that are opened when asked for.
#pragma once
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace ddpm {

// Names of the backends that are there, 'cpu' first.
std::vector<std::string> backendNames();

// Throws device-unavailable with what was tried.
const Backend& loadBackend(const std::string& name);

}  // namespace ddpm
