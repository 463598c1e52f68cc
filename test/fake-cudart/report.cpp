#include "test/fake-cudart/report.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

namespace fake {
namespace {

struct Report {
  std::mutex lock;
  std::map<std::string, size_t> counts, kernels;
};
Report& report() {
  static auto& all = *new Report;  // never destroyed: it is written last
  return all;
}

void write(std::FILE* file, const char* name, const std::map<std::string, size_t>& counts) {
  std::fprintf(file, "\"%s\":{", name);
  const char* comma = "";
  for (const auto& [key, value] : counts) {
    std::fprintf(file, "%s\"%s\":%zu", comma, key.c_str(), value);
    comma = ",";
  }
  std::fprintf(file, "}");
}

__attribute__((destructor)) void writeReport() {
  const char* path = std::getenv("FAKE_CUDART_REPORT");
  std::FILE* file = path ? std::fopen(path, "w") : nullptr;
  if (!file) return;
  std::fprintf(file, "{");
  write(file, "counts", report().counts);
  std::fprintf(file, ",");
  write(file, "kernels", report().kernels);
  std::fprintf(file, "}\n");
  std::fclose(file);
}

}  // namespace

void violation(const std::string& what) {
  std::fprintf(stderr, "fake-cudart: %s\n", what.c_str());
  std::abort();
}

void count(const std::string& what, size_t times) {
  const std::lock_guard guard(report().lock);
  report().counts[what] += times;
}

void countKernel(const std::string& name, size_t times) {
  const std::lock_guard guard(report().lock);
  report().kernels[name] += times;
}

}  // namespace fake
