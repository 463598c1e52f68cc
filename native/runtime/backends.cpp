#include "native/runtime/backends.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "kernels/cpu/backend.h"
#include "native/graph/error.h"
#include "native/runtime/at_exit.h"

namespace ddpm {
namespace {

const char* const kSidecars[] = {"cuda", "cuda-host", "cuda-host-contracted", "reference"};

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

// The library's path; empty with the paths that were tried.
std::string findSidecar(const std::string& name, std::string& tried) {
  for (const char* suffix : kSuffixes) {
    const std::string path = ownFolder() + "/ddpm_" + name + suffix;
    if (access(path.c_str(), R_OK) == 0) return path;
    tried += (tried.empty() ? "" : ", ") + path;
  }
  return "";
}

const Backend& openBackend(const std::string& name) {
  if (name == "cpu") return *cpuBackend();
  bool known = false;
  for (const char* sidecar : kSidecars) known = known || name == sidecar;
  if (!known)
    throw Failure::argumentOf("openDevice", "backend",
                              "'cpu', 'cuda', 'cuda-host', 'cuda-host-contracted' or 'reference'",
                              Failure::quoted(name));

  const auto unavailable = [&](const std::string& why) {
    return Failure("device-unavailable", "the " + name + " backend is not available: " + why);
  };
  std::string tried;
  const std::string path = findSidecar(name, tried);
  if (path.empty())
    throw unavailable("there is no " + tried +
                      (name == "cuda" ? "; `npm run build:cuda` builds it in a checkout, with nvcc" : ""));
  // Never closed: other environments of the process may use it, too.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    throw unavailable(why ? why : path + " cannot be opened");
  }
  const auto function = reinterpret_cast<DdpmBackendFn>(dlsym(library, "ddpm_backend"));
  const Backend* backend = function ? function(kBackendAbi) : nullptr;
  if (!backend)
    throw unavailable(path + " does not serve version " + std::to_string(kBackendAbi) + " of the interface");
  return *backend;
}

}  // namespace

std::vector<std::string> backendNames() {
  std::vector<std::string> names = {"cpu"};
  for (const char* name : kSidecars) {
    std::string tried;
    if (!findSidecar(name, tried).empty()) names.push_back(name);
  }
  return names;
}

const Backend& loadBackend(const std::string& name) {
  static std::mutex mutex;
  static auto& loaded = *new std::map<std::string, const Backend*>;
  const std::lock_guard lock(mutex);
  const auto found = loaded.find(name);
  if (found != loaded.end()) return *found->second;
  const Backend& backend = openBackend(name);
  beginExitHere();
  loaded[name] = &backend;
  return backend;
}

}  // namespace ddpm
