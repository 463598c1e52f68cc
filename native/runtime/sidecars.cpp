#include "native/runtime/sidecars.h"

#include <dlfcn.h>
#include <unistd.h>

namespace ddpm {
namespace {

#ifdef __APPLE__
const char* const kSuffixes[] = {".dylib", ".so"};
#else
const char* const kSuffixes[] = {".so"};
#endif

// The folder of the file that this code is in.
std::string ownFolder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&ownFolder), &info) || !info.dli_fname) return ".";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

}  // namespace

std::string findSidecar(const std::string& name, std::string& tried) {
  for (const char* suffix : kSuffixes) {
    const std::string path = ownFolder() + "/ddpm_" + name + suffix;
    if (access(path.c_str(), R_OK) == 0) return path;
    tried += (tried.empty() ? "" : ", ") + path;
  }
  return "";
}

void* openSidecar(const std::string& path, const char* symbol, std::string& why) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library) return dlsym(library, symbol);
  const char* reason = dlerror();
  why = reason ? reason : path + " cannot be opened";
  return nullptr;
}

}  // namespace ddpm
