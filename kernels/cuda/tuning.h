// What libraries and the choice of algorithms need of the device and of the machine. Two files implement it: tuning.cu
// for GPUs, and host/tuning.cpp for tests.
#pragma once
#include <functional>
#include <string>

#include "kernels/cuda/device.h"

namespace ddpm::cuda {

// Where cuDNN is looked for: a folder, "off", or "" for where the system's loader finds it or else people have it
// (search.h). On GPUs DDPM_CUDNN; on the CPU, where the real one can't run, DDPM_HOST_CUDNN, and "off" by default.
std::string cudnnPlace();
// The same of NCCL: DDPM_NCCL, DDPM_HOST_NCCL.
std::string ncclPlace();

// Folder of the files with earlier processes' choices, "" for none (tuning_file.h). On GPUs DDPM_TUNE_CACHE, a folder
// or "off", by default cacheFolder(); on the CPU, where times are given, only where DDPM_TUNE_CACHE is set.
std::string tuningFolder();
// What times depend on but the library of others: the device's name and the version of its driver.
std::string identityOf(const CudaDevice& device);

// Does the work, which puts something on the device's stream by way of a library. On the CPU, which has no streams to
// record from, a recording keeps the work itself.
void issue(const std::function<void()>& work);

// Times work on a stream of its own, beside whatever the device is doing.
class Stopwatch {
 public:
  // Whether times mean anything on this device.
  static bool works();

  explicit Stopwatch(const CudaDevice& device);

  // The device to allocate on and to give to the work.
  CudaDevice& device() { return device_; }
  // Milliseconds that the work of a candidate, which launches it so often, takes in all.
  float time(const std::string& candidate, const std::function<void()>& work, int launches = 1);

 private:
  CudaDevice device_;
};

}  // namespace ddpm::cuda
