#include "kernels/cuda/tuning_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace ddpm::cuda {
namespace {

constexpr const char* kFormat = "ddpm-native tuning 1: ";
constexpr size_t kMaxBytes = size_t(1) << 20;
constexpr size_t kMaxLine = 1024;

// FNV-1a, of 64 bits, in hexadecimal.
std::string hashOf(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001B3u;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

std::string textOf(const std::vector<int64_t>& key) {
  std::string text;
  for (const int64_t part : key) text += (text.empty() ? "" : ",") + std::to_string(part);
  return text;
}

std::string printable(std::string text) {
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

// A regular file, up to kMaxBytes of it; "" where it can't be read.
std::string contentsOf(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return "";
  std::string text;
  struct stat about = {};
  if (fstat(file, &about) == 0 && S_ISREG(about.st_mode)) {
    text.resize(kMaxBytes);
    size_t length = 0;
    for (ssize_t got = 1; got > 0 && length < kMaxBytes; length += size_t(std::max<ssize_t>(got, 0)))
      got = ::read(file, text.data() + length, kMaxBytes - length);
    text.resize(length);
  }
  close(file);
  return text;
}

bool writeAll(int file, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(file, text.data() + done, text.size() - done);
    if (wrote <= 0) return false;
    done += size_t(wrote);
  }
  return fsync(file) == 0;
}

}  // namespace

TuningFile::TuningFile(const std::string& folder, const std::string& identity)
    : folder_(folder), head_(kFormat + printable(identity)) {
  if (folder.empty()) return;
  path_ = folder + "/tuning-" + hashOf(identity) + ".txt";
  entries_ = read();
}

// The head, then a line for each: the key, a tabulator, the name.
TuningFile::Entries TuningFile::read() const {
  Entries entries;
  const std::string text = contentsOf(path_);
  if (text.rfind(head_ + "\n", 0) != 0) return entries;
  for (size_t at = head_.size() + 1; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // cut off
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const size_t tab = line.find('\t');
    if (tab == std::string::npos || line.size() > kMaxLine ||
        line != line.substr(0, tab) + "\t" + printable(line.substr(tab + 1)))
      continue;
    if (line.find_first_not_of("0123456789-,") == tab) entries[line.substr(0, tab)] = line.substr(tab + 1);
  }
  return entries;
}

std::string TuningFile::find(const std::vector<int64_t>& key) const {
  const auto found = entries_.find(textOf(key));
  return found == entries_.end() ? "" : found->second;
}

void TuningFile::add(const std::vector<int64_t>& key, const std::string& name) {
  entries_[textOf(key)] = added_[textOf(key)] = printable(name);
}

void TuningFile::save() {
  if (path_.empty() || added_.empty()) return;
  Entries all = read();
  for (const auto& [key, name] : added_) all[key] = name;
  std::string text = head_ + "\n";
  for (const auto& [key, name] : all)
    if (text.size() + key.size() + name.size() + 2 <= kMaxBytes) text += key + "\t" + name + "\n";

  std::error_code failed;
  std::filesystem::create_directories(folder_, failed);
  std::string temporary = path_ + ".XXXXXX";
  const int file = mkostemp(temporary.data(), O_CLOEXEC);
  if (file < 0) return;
  const bool written = writeAll(file, text);
  if (close(file) != 0 || !written || std::rename(temporary.c_str(), path_.c_str()) != 0) unlink(temporary.c_str());
  added_.clear();
}

std::string cacheFolder() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  if (cache && cache[0] == '/') return std::string(cache) + "/ddpm-native";  // relative ones are to be ignored
  return home && home[0] ? std::string(home) + "/.cache/ddpm-native" : "";
}

}  // namespace ddpm::cuda
