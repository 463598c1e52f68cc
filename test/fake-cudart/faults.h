// Errors on demand. FAKE_CUDART_FAIL is "CALL=STATUS", or "CALL#N=STATUS" for the Nth such call from when it was set
// (default 1): "cudaGraphInstantiate=2", "launch#40=700", "captured launch=900". It may be changed while the process
// runs, and every fault strikes once. A status of "hang" is a call that does not return. After a status by which a
// process loses a GPU, every later call on that device gives it.
#pragma once
#include <driver_types.h>

#include <string>

namespace fake {

// What this call on this device gives; cudaSuccess to go on.
cudaError_t faultOf(const char* call, int device);
// Of a call that asks nothing of the device, and so does not mind that it is lost.
cudaError_t ownFaultOf(const char* call, int device);

// A number of the environment.
size_t setting(const char* name, size_t otherwise);

}  // namespace fake
