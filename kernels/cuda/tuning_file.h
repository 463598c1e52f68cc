// Choices that earlier processes made by times, in a file: of a device, its driver and the libraries it is timed with.
// The file is not trusted: it is read up to a size, lines that are none of ours are left, and whoever asks looks for
// the name among the candidates that there are.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ddpm::cuda {

class TuningFile {
 public:
  // Reads the file in `folder` that `identity` names; "": there is none. Never throws for what the file is.
  TuningFile(const std::string& folder, const std::string& identity);

  // The candidate's name; "" where there is no entry.
  std::string find(const std::vector<int64_t>& key) const;
  void add(const std::vector<int64_t>& key, const std::string& name);
  // With what other processes have added meanwhile. What can't be written is timed again by the next process.
  void save();

 private:
  using Entries = std::map<std::string, std::string>;  // key as text -> name

  Entries read() const;

  std::string folder_, path_, head_;
  Entries entries_, added_;
};

// ~/.cache/ddpm-native, or as XDG_CACHE_HOME says; "" where there is no home.
std::string cacheFolder();

}  // namespace ddpm::cuda
