// The part of NCCL 2 that the sum over ranks needs, in declarations of our own: the library is opened at run time, and
// its header is not needed to build. Names are NCCL's without their prefixes. The values are those of NCCL 2.14 and
// later: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
#pragma once
#include <climits>
#include <cstddef>
#include <cstdint>

struct CUstream_st;
struct ncclComm;

namespace ddpm::cuda::nccl {

using Comm = ncclComm*;  // ncclComm_t
using Status = int32_t;  // ncclResult_t
constexpr Status kSuccess = 0, kInProgress = 7;

enum class DataType : int32_t { int8 = 0 };  // ncclDataType_t: bytes, whatever they are

struct UniqueId {  // ncclUniqueId, passed by value
  char bytes[128];
};

// ncclConfig_t as NCCL 2.14 had it: later versions read as much as `size` and `version` say.
struct Config {
  size_t size = sizeof(Config);
  uint32_t magic = 0xcafebeef, version = 21400;
  int32_t blocking = INT_MIN;  // NCCL_CONFIG_UNDEF_INT
};

constexpr int kLeastVersion = 21400, kBeyondVersion = 30000;

// The library's functions: ncclGetVersion, ..., ncclBroadcast. Those that a communicator which does not block may not
// have finished when they return give kInProgress, and commGetAsyncError then tells.
struct Api {
  Status (*getVersion)(int*);  // 22304 is 2.23.4
  const char* (*getErrorString)(Status);
  Status (*getUniqueId)(UniqueId*);
  Status (*commInitRankConfig)(Comm*, int ranks, UniqueId, int rank, Config*);
  Status (*commGetAsyncError)(Comm, Status*);
  Status (*commFinalize)(Comm);
  Status (*commDestroy)(Comm);
  Status (*commAbort)(Comm);
  Status (*groupStart)();
  Status (*groupEnd)();
  Status (*send)(const void*, size_t count, DataType, int peer, Comm, CUstream_st*);
  Status (*recv)(void*, size_t count, DataType, int peer, Comm, CUstream_st*);
  Status (*allGather)(const void* from, void* to, size_t count, DataType, Comm, CUstream_st*);
  Status (*broadcast)(const void* from, void* to, size_t count, DataType, int root, Comm, CUstream_st*);
};

}  // namespace ddpm::cuda::nccl
