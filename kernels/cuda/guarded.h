// Between the table of functions that a library exports (backend.h) and the device behind it.
#pragma once
#include <cstdio>
#include <exception>
#include <new>

#include "kernels/cuda/device.h"

namespace ddpm::cuda {

inline CudaDevice& deviceOf(DeviceHandle* handle) { return *reinterpret_cast<CudaDevice*>(handle); }

inline bool fail(Error* error, ErrorCode code, const char* message) {
  error->code = code;
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return false;
}

// No exception leaves the library.
template <class F>
bool guarded(Error* error, F f) {
  try {
    f();
    return true;
  } catch (const BackendError& e) {
    return fail(error, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return fail(error, ErrorCode::outOfMemory, "the host is out of memory");
  } catch (const std::exception& e) {
    return fail(error, ErrorCode::internal, e.what());
  }
}

template <class F>
bool onDevice(DeviceHandle* handle, Error* error, F f) {
  return guarded(error, [&] {
    CudaDevice& device = deviceOf(handle);
    device.use();
    f(device);
  });
}

}  // namespace ddpm::cuda
