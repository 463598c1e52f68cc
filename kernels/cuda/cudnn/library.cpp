#include "kernels/cuda/cudnn/library.h"

#include "kernels/cuda/opened.h"
#include "kernels/cuda/tuning.h"

namespace ddpm::cuda::cudnn {
namespace {

constexpr const char* kGraph = "libcudnn_graph.so.9";
// What the graph library opens itself when it is used, by name only: were one of them missing beside it, the system's
// loader might take another version's. Opened by their paths before, they are the ones that it gets.
constexpr const char* kParts[] = {"libcudnn_engines_precompiled.so.9", "libcudnn_engines_runtime_compiled.so.9",
                                  "libcudnn_heuristic.so.9"};

std::string versionText(size_t v) {
  // Up to 8: major * 1000 + minor * 100 + patch.
  const size_t unit = v < 10000 ? 1000 : 10000;
  return std::to_string(v / unit) + "." + std::to_string(v % unit / 100) + "." + std::to_string(v % 100);
}

std::string findAll(void* library, Api& api) {
  std::string missing;
  find(library, "cudnnGetVersion", api.getVersion, missing);
  find(library, "cudnnGetErrorString", api.getErrorString, missing);
  find(library, "cudnnGetLastErrorString", api.getLastErrorString, missing);
  find(library, "cudnnCreate", api.create, missing);
  find(library, "cudnnSetStream", api.setStream, missing);
  find(library, "cudnnBackendCreateDescriptor", api.createDescriptor, missing);
  find(library, "cudnnBackendDestroyDescriptor", api.destroyDescriptor, missing);
  find(library, "cudnnBackendSetAttribute", api.setAttribute, missing);
  find(library, "cudnnBackendGetAttribute", api.getAttribute, missing);
  find(library, "cudnnBackendFinalize", api.finalize, missing);
  find(library, "cudnnBackendExecute", api.execute, missing);
  return missing;
}

// From one folder, or where the system's loader finds it.
Opened<Library> openFrom(const std::string& folder) {
  Opened<Library> opened;
  Library& found = opened.library;
  const auto refuse = [&](const std::string& why) {
    opened.why = why;
    return opened;
  };
  // Without them cuDNN opens, and fails when it is used.
  for (const std::string& companion : companionsOf(folder)) dlopen(companion.c_str(), RTLD_NOW | RTLD_LOCAL);
  const std::string path = folder.empty() ? kGraph : folder + "/" + kGraph;
  void* graph = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!graph) return refuse(lastError());
  found.folder = folderOf(graph, "cudnnGetVersion");
  const std::string missing = findAll(graph, found.api);
  if (!missing.empty()) return refuse(path + " has no " + missing);
  const size_t version = found.api.getVersion();
  found.version = versionText(version);
  if (version < 90000 || version >= 100000)
    return refuse(found.folder + " has cuDNN " + found.version + ", and the declarations here are those of cuDNN 9");
  for (const char* part : kParts)
    if (!dlopen((found.folder + "/" + part).c_str(), RTLD_NOW | RTLD_LOCAL)) return refuse(lastError());
  return opened;
}

}  // namespace

const Library* library(std::string* why) {
  static const auto opened = openSomewhere(cudnnPlace(), "cudnn", kGraph, openFrom);
  if (opened.why.empty()) return &opened.library;
  *why = "no cuDNN: " + opened.why;
  return nullptr;
}

std::string description() {
  std::string why;
  const Library* found = library(&why);
  return found ? "cuDNN " + found->version + " in " + found->folder : why;
}

}  // namespace ddpm::cuda::cudnn
