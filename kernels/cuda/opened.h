// Libraries that are opened at run time (cuDNN, NCCL): where, and which functions they have.
#pragma once
#include <dlfcn.h>

#include <string>

#include "kernels/cuda/search.h"

namespace ddpm::cuda {

inline std::string lastError() {
  const char* error = dlerror();
  return error ? error : "unknown error";
}

// Of the library that has the symbol.
inline std::string folderOf(void* library, const char* symbol) {
  Dl_info info;
  void* address = dlsym(library, symbol);
  if (!address || !dladdr(address, &info) || !info.dli_fname) return "";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

// The function of that name; null with the name in `missing`.
template <class F>
void find(void* library, const char* name, F*& function, std::string& missing) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (!function) missing += (missing.empty() ? "" : ", ") + std::string(name);
}

template <class Library>
struct Opened {
  Library library;
  std::string why;  // it is not; empty when it is
};

// By `openFrom(folder)`, where "" is where the system's loader finds it: from `place` alone where that is a folder, and
// else from the first of all that have `file` beside Python's `package`, too. "off": from none.
template <class Library>
Opened<Library> openSomewhere(const std::string& place, const char* package, const char* file,
                              Opened<Library> (*openFrom)(const std::string& folder)) {
  if (place == "off") return {{}, "switched off"};
  if (!place.empty()) return openFrom(place);
  Opened<Library> opened = openFrom("");
  if (opened.why.empty()) return opened;
  for (const std::string& folder : searchFolders(package, file)) {
    const Opened<Library> found = openFrom(folder);
    if (found.why.empty()) return found;
    opened.why += "; " + found.why;
  }
  return opened;
}

}  // namespace ddpm::cuda
