#include "kernels/cuda/nccl/links.h"

#include <cstring>
#include <memory>

#include "kernels/cuda/guarded.h"
#include "kernels/cuda/nccl/communicator.h"

namespace ddpm::cuda::nccl {
namespace {

const Library& found() {
  std::string why;
  const Library* library = nccl::library(&why);
  if (!library) throw BackendError(ErrorCode::deviceUnavailable, why);
  return *library;
}

Communicator& joined(CudaDevice& device) {
  if (!device.communicator) throw BackendError(ErrorCode::invalidArgument, "this device has not joined others");
  return *device.communicator;
}

bool makeId(DeviceHandle* handle, char* id, Error* error) {
  return onDevice(handle, error, [&](CudaDevice&) {
    const Api& api = found().api;
    UniqueId unique;
    if (const Status status = api.getUniqueId(&unique); status != kSuccess)
      throw BackendError(ErrorCode::internal, std::string("ncclGetUniqueId: ") + api.getErrorString(status));
    std::memcpy(id, unique.bytes, Links::kIdBytes);
  });
}

bool join(DeviceHandle* handle, const char* id, int32_t rank, int32_t size, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) {
    if (device.communicator) throw BackendError(ErrorCode::invalidArgument, "this device has joined others before");
    UniqueId unique;
    std::memcpy(unique.bytes, id, Links::kIdBytes);
    device.communicator = std::make_unique<Communicator>(found(), device, unique, rank, size);
  });
}

void library(DeviceHandle* handle, char* text, size_t bytes) {
  const Library& library = joined(deviceOf(handle)).library();
  std::snprintf(text, bytes, "NCCL %s in %s", library.version.c_str(), library.folder.c_str());
}

bool exchange(DeviceHandle* handle, const void* from, const Part* sent, void* to, const Part* received, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { joined(device).exchange(from, sent, to, received); });
}

bool gather(DeviceHandle* handle, void* data, const Part* parts, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) { joined(device).gather(data, parts); });
}

bool beginAside(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [](CudaDevice& device) { device.beginAside(); });
}

bool endAside(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [](CudaDevice& device) { device.endAside(); });
}

bool awaitAside(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [](CudaDevice& device) { device.awaitAside(); });
}

bool check(DeviceHandle* handle, Error* error) {
  return guarded(error, [&] { joined(deviceOf(handle)).check(); });
}

void setTimeout(DeviceHandle* handle, double seconds) { deviceOf(handle).patience.seconds = seconds; }

void abandon(DeviceHandle* handle) { deviceOf(handle).patience.isOver = true; }

bool leave(DeviceHandle* handle, Error* error) {
  return onDevice(handle, error, [&](CudaDevice& device) {
    device.synchronize();
    joined(device).leave();
  });
}

}  // namespace

const Links* links() {
  static const Links table = {.makeId = makeId,
                              .join = join,
                              .library = library,
                              .exchange = exchange,
                              .gather = gather,
                              .beginAside = beginAside,
                              .endAside = endAside,
                              .awaitAside = awaitAside,
                              .check = check,
                              .setTimeout = setTimeout,
                              .abandon = abandon,
                              .leave = leave};
  return &table;
}

}  // namespace ddpm::cuda::nccl
