#include "kernels/cuda/search.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace ddpm::cuda {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Entries whose names begin so, sorted; none where the folder can't be read.
std::vector<fs::path> entries(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> found;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
    if (it->path().filename().string().rfind(prefix, 0) == 0) found.push_back(it->path());
  std::sort(found.begin(), found.end());
  return found;
}

bool isThere(const fs::path& file) {
  std::error_code failed;
  return fs::exists(file, failed);
}

// "/usr" of /usr/bin/python3, and of what that is a link to: a virtual environment's interpreter is one.
void addPrefixes(const fs::path& interpreter, std::vector<fs::path>& prefixes) {
  if (!isThere(interpreter)) return;
  prefixes.push_back(interpreter.parent_path().parent_path());
  std::error_code failed;
  const fs::path real = fs::canonical(interpreter, failed);
  if (!failed) prefixes.push_back(real.parent_path().parent_path());
}

fs::path inPath(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  std::stringstream folders(variable("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');)
    if (!folder.empty() && isThere(fs::path(folder) / name)) return fs::path(folder) / name;
  return {};
}

std::vector<fs::path> prefixes() {
  std::vector<fs::path> found;
  if (const std::string python = variable("PYTHON"); !python.empty()) addPrefixes(inPath(python), found);
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const std::string prefix = variable(name); !prefix.empty()) found.push_back(prefix);
  for (const char* name : {"python3", "python"}) addPrefixes(inPath(name), found);
  if (const std::string home = variable("HOME"); !home.empty()) found.push_back(fs::path(home) / ".local");
  for (const char* prefix : {"/usr/local", "/usr", "/usr/local/cuda"}) found.push_back(prefix);
  return found;
}

}  // namespace

std::vector<std::string> searchFolders(const std::string& package, const std::string& file) {
  std::vector<std::string> found;
  const auto add = [&](const fs::path& folder) {
    if (isThere(folder / file) && std::find(found.begin(), found.end(), folder.string()) == found.end())
      found.push_back(folder.string());
  };
  for (const fs::path& prefix : prefixes()) {
    for (const char* lib : {"lib", "lib64"}) {
      for (const fs::path& python : entries(prefix / lib, "python3"))
        for (const char* packages : {"site-packages", "dist-packages"})
          add(python / packages / "nvidia" / package / "lib");
      add(prefix / lib);
    }
  }
  return found;
}

std::vector<std::string> companionsOf(const std::string& folder) {
  std::vector<std::string> found;
  const fs::path packages = fs::path(folder).parent_path().parent_path();  // nvidia, of nvidia/cudnn/lib
  if (packages.filename() != "nvidia") return found;
  // One package a library, or since CUDA 13 one for all. cuBLAS opens cuBLASLt by name, so that comes first.
  for (const char* library : {"libnvrtc-builtins.so.", "libnvrtc.so.", "libcublasLt.so.", "libcublas.so."})
    for (const char* package : {"cuda_nvrtc", "cublas", "cu13", "cu12"})
      for (const fs::path& file : entries(packages / package / "lib", library)) found.push_back(file.string());
  return found;
}

}  // namespace ddpm::cuda
