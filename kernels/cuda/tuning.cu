// Timing on a GPU, by events on the stream.
#include <cstdlib>

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/tuning_file.h"

namespace ddpm::cuda {
namespace {

class Event {
 public:
  Event() { DDPM_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

std::string cudnnPlace() {
  const char* place = std::getenv("DDPM_CUDNN");
  return place ? place : "";
}

std::string ncclPlace() {
  const char* place = std::getenv("DDPM_NCCL");
  return place ? place : "";
}

std::string tuningFolder() {
  const char* folder = std::getenv("DDPM_TUNE_CACHE");
  return !folder ? cacheFolder() : std::string(folder) == "off" ? "" : folder;
}

std::string identityOf(const CudaDevice& device) {
  DeviceInfo info;
  device.describe(&info);
  int driver = 0, runtime = 0;
  DDPM_CUDA(cudaDriverGetVersion(&driver));
  DDPM_CUDA(cudaRuntimeGetVersion(&runtime));
  return std::string(info.name) + ", " + info.isa + ", " + std::to_string(info.threads) + " multiprocessors, driver " +
         std::to_string(driver) + ", runtime " + std::to_string(runtime);
}

void issue(const std::function<void()>& work) { work(); }

bool Stopwatch::works() { return true; }

Stopwatch::Stopwatch(const CudaDevice& device) : device_(device.index()) {}

float Stopwatch::time(const std::string&, const std::function<void()>& work, int) {
  const Event begin, end;
  DDPM_CUDA(cudaEventRecord(begin.get(), device_.stream()));
  work();
  DDPM_CUDA(cudaEventRecord(end.get(), device_.stream()));
  DDPM_CUDA(cudaEventSynchronize(end.get()));
  float milliseconds = 0;
  DDPM_CUDA(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
  return milliseconds;
}

}  // namespace ddpm::cuda
