#include "native/runtime/backends.h"

#include <map>
#include <mutex>

#include "kernels/cpu/backend.h"
#include "native/graph/error.h"
#include "native/runtime/at_exit.h"
#include "native/runtime/sidecars.h"

namespace ddpm {
namespace {

const char* const kSidecars[] = {"cuda", "cuda-host", "cuda-host-contracted", "reference"};

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
  std::string why;
  const auto function = reinterpret_cast<DdpmBackendFn>(openSidecar(path, "ddpm_backend", why));
  if (!why.empty()) throw unavailable(why);
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
