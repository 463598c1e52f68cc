// What host/grid.h and host/memory.h are on the CPU, on a GPU: the same names, with nothing but a pointer behind them.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel_name.h"
#include "kernels/cuda/vec.h"

namespace ddpm::cuda {

// Throws BackendError with the call, the place and CUDA's reason; out of memory has a code of its own.
void checkCuda(cudaError_t status, const char* expression, const char* file, int line);
#define DDPM_CUDA(call) ::ddpm::cuda::checkCuda((call), #call, __FILE__, __LINE__)

void checkLaunch(cudaError_t status, const std::string& kernel, dim3 grid, dim3 block, size_t shared);

template <class T>
class Global {
 public:
  __host__ __device__ Global() {}
  Global(T* data, int64_t) : data_(data) {}
  template <class U>
    requires std::is_same_v<const U, T>
  __host__ __device__ Global(const Global<U>& other) : data_(other.data_) {}

  __host__ __device__ explicit operator bool() const { return data_ != nullptr; }
  __device__ T& operator[](int64_t i) const { return data_[i]; }
  __device__ T* at(int64_t i, int) const { return data_ + i; }

 private:
  template <class U>
  friend class Global;
  T* data_ = nullptr;
};

template <class T>
class Shared {
 public:
  __device__ Shared() {}
  __device__ explicit Shared(T* data) : data_(data) {}
  __device__ T& operator[](int i) const { return data_[i]; }
  __device__ Shared operator+(int i) const { return Shared(data_ + i); }
  __device__ T* at(int i, int) const { return data_ + i; }

 private:
  T* data_ = nullptr;
};

template <int V, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, V> load(const Global<T>& from, int64_t i) {
  return *reinterpret_cast<const Vec<std::remove_const_t<T>, V>*>(from.at(i, V));
}
template <int V, class T>
__device__ __forceinline__ void store(const Global<T>& to, int64_t i, const Vec<T, V>& pack) {
  *reinterpret_cast<Vec<T, V>*>(to.at(i, V)) = pack;
}
template <int V, class T>
__device__ __forceinline__ Vec<T, V> load(const Shared<T>& from, int i) {
  return *reinterpret_cast<const Vec<T, V>*>(from.at(i, V));
}
template <int V, class T>
__device__ __forceinline__ void store(const Shared<T>& to, int i, const Vec<T, V>& pack) {
  *reinterpret_cast<Vec<T, V>*>(to.at(i, V)) = pack;
}

template <class T>
__device__ __forceinline__ Shared<T> dynamicShared(size_t offset, int64_t) {
  extern __shared__ __align__(128) unsigned char ddpmDynamicShared[];
  return Shared<T>(reinterpret_cast<T*>(ddpmDynamicShared + offset));
}

#define DDPM_SHARED(T, name, count)                \
  __shared__ __align__(16) T name##Storage[count]; \
  const ::ddpm::cuda::Shared<T> name(name##Storage)

template <class Signature>
struct Launcher;
template <class... P>
struct Launcher<void (*)(P...)> {
  template <auto kernel>
  static void run(dim3 grid, dim3 block, size_t shared, Stream stream, P... parameters) {
    kernel<<<grid, block, shared, stream>>>(parameters...);
  }
};

// Puts the kernel on the stream; an empty grid is no work. `shared`: bytes of dynamic shared memory.
template <auto kernel, class... Args>
void launch(dim3 grid, dim3 block, size_t shared, Stream stream, const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > (48 << 10))  // more has to be asked for
    if (const cudaError_t status =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
        status != cudaSuccess) {
      cudaGetLastError();
      checkLaunch(status, kernelName<kernel>(), grid, block, shared);
    }
  Launcher<decltype(kernel)>::template run<kernel>(grid, block, shared, stream, args...);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess)
    checkLaunch(status, kernelName<kernel>(), grid, block, shared);
}

}  // namespace ddpm::cuda
