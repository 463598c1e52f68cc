// Libraries that lie beside the addon and are opened when they are asked for.
#pragma once
#include <string>

namespace ddpm {

// The path of ddpm_<name>; empty where there is none, with the paths that were tried.
std::string findSidecar(const std::string& name, std::string& tried);

// The address of one of its symbols. The library is never closed: other environments of the process may use it, too.
// Null where it has none, or, with the reason, where the library can't be opened.
void* openSidecar(const std::string& path, const char* symbol, std::string& why);

}  // namespace ddpm
