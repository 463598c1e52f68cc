#include "kernels/cuda/nccl/library.h"

#include "kernels/cuda/opened.h"
#include "kernels/cuda/tuning.h"

namespace ddpm::cuda::nccl {
namespace {

constexpr const char* kFile = "libnccl.so.2";

std::string versionText(int v) {
  return std::to_string(v / 10000) + "." + std::to_string(v % 10000 / 100) + "." + std::to_string(v % 100);
}

std::string findAll(void* library, Api& api) {
  std::string missing;
  find(library, "ncclGetVersion", api.getVersion, missing);
  find(library, "ncclGetErrorString", api.getErrorString, missing);
  find(library, "ncclGetUniqueId", api.getUniqueId, missing);
  find(library, "ncclCommInitRankConfig", api.commInitRankConfig, missing);
  find(library, "ncclCommGetAsyncError", api.commGetAsyncError, missing);
  find(library, "ncclCommFinalize", api.commFinalize, missing);
  find(library, "ncclCommDestroy", api.commDestroy, missing);
  find(library, "ncclCommAbort", api.commAbort, missing);
  find(library, "ncclGroupStart", api.groupStart, missing);
  find(library, "ncclGroupEnd", api.groupEnd, missing);
  find(library, "ncclSend", api.send, missing);
  find(library, "ncclRecv", api.recv, missing);
  find(library, "ncclAllGather", api.allGather, missing);
  find(library, "ncclBroadcast", api.broadcast, missing);
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
  const std::string path = folder.empty() ? kFile : folder + "/" + kFile;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return refuse(lastError());
  found.folder = folderOf(handle, "ncclGetVersion");
  const auto tooOld = [&](int version) {
    return refuse(found.folder + " has NCCL " + versionText(version) +
                  ", and the declarations here are those of NCCL 2.14 and later");
  };
  const std::string missing = findAll(handle, found.api);
  int version = 0;
  if (found.api.getVersion && found.api.getVersion(&version) == kSuccess &&
      (version < kLeastVersion || version >= kBeyondVersion))
    return tooOld(version);
  if (!missing.empty()) return refuse(path + " has no " + missing);
  found.version = versionText(version);
  return opened;
}

}  // namespace

const Library* library(std::string* why) {
  static const auto opened = openSomewhere(ncclPlace(), "nccl", kFile, openFrom);
  if (opened.why.empty()) return &opened.library;
  *why = "no NCCL: " + opened.why;
  return nullptr;
}

}  // namespace ddpm::cuda::nccl
