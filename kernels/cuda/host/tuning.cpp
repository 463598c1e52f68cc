// Timing on the CPU, where it would mean nothing: tests give the times. DDPM_HOST_TIMES is a list like
// "direct=2,cuDNN engine 4=0.5"; the work is done, and a launch takes the time of the first entry that the candidate's
// name begins with.
#include "kernels/cuda/tuning.h"

#include <cstdlib>
#include <sstream>

#include "kernels/cuda/host/grid.h"

namespace ddpm::cuda {

std::string cudnnPlace() {
  const char* place = std::getenv("DDPM_HOST_CUDNN");
  return place ? place : "off";  // "" searches, as on a GPU
}

std::string ncclPlace() {
  const char* place = std::getenv("DDPM_HOST_NCCL");
  return place ? place : "off";
}

std::string tuningFolder() {
  const char* folder = std::getenv("DDPM_TUNE_CACHE");
  return !folder || std::string(folder) == "off" ? "" : folder;
}

std::string identityOf(const CudaDevice&) {
  const char* driver = std::getenv("DDPM_HOST_DRIVER");
  return std::string("cuda-host, driver ") + (driver ? driver : "0");
}

void issue(const std::function<void()>& work) {
  if (host::recorded)
    host::recorded->work.push_back(work);
  else
    work();
}

bool Stopwatch::works() { return std::getenv("DDPM_HOST_TIMES") != nullptr; }

Stopwatch::Stopwatch(const CudaDevice& device) : device_(device.index()) {}

float Stopwatch::time(const std::string& candidate, const std::function<void()>& work, int launches) {
  work();
  std::stringstream times(std::getenv("DDPM_HOST_TIMES"));
  for (std::string entry; std::getline(times, entry, ',');) {
    const size_t sign = entry.find('=');
    if (sign != std::string::npos && candidate.rfind(entry.substr(0, sign), 0) == 0)
      return std::strtof(entry.c_str() + sign + 1, nullptr) * float(launches);
  }
  throw BackendError(ErrorCode::internal, "DDPM_HOST_TIMES has no time of " + candidate);
}

}  // namespace ddpm::cuda
