// Collectives by MPI (MPI Forum 2015, version 3.1), whichever implementation this file is compiled against.
#include <mpi.h>

#include <climits>
#include <cstdio>
#include <cstring>
#include <vector>

#include "native/collectives/collectives.h"

namespace ddpm {

struct WorldHandle {
  int32_t rank = 0, size = 0;
};

struct Operation {
  MPI_Request request = MPI_REQUEST_NULL;
  std::vector<int> counts, offsets, otherCounts, otherOffsets;  // MPI reads them until it is done
};

namespace {

void setError(Error* error, ErrorCode code, const char* what) {
  error->code = code;
  std::snprintf(error->message, sizeof error->message, "%s", what);
}

bool succeeded(int result, const char* call, Error* error) {
  if (result == MPI_SUCCESS) return true;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(result, text, &length);
  setError(error, ErrorCode::internal, call);
  std::snprintf(error->message, sizeof error->message, "%s: %s", call, text);
  return false;
}

WorldHandle* open(Error* error) {
  int isDone = 0;
  MPI_Initialized(&isDone);
  if (isDone) {
    setError(error, ErrorCode::invalidArgument, "MPI is already in use in this process");
    return nullptr;
  }
  int provided = 0;
  if (!succeeded(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread", error))
    return nullptr;
  // Errors are ours to tell.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  auto world = new WorldHandle;
  MPI_Comm_rank(MPI_COMM_WORLD, &world->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world->size);
  return world;
}

void info(WorldHandle* world, WorldInfo* out) {
  out->rank = world->rank;
  out->size = world->size;
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  version[std::strcspn(version, "\n,")] = 0;  // some add how they were built
  std::snprintf(out->library, sizeof out->library, "%.*s", int(sizeof out->library) - 1, version);
}

// Begins what `start` asks MPI for.
template <class Start>
Operation* begin(const char* call, Error* error, const Start& start) {
  auto operation = new Operation;
  if (succeeded(start(*operation), call, error)) return operation;
  delete operation;
  return nullptr;
}

// False where MPI can't count so far.
bool place(const WorldHandle& world, const Part* parts, std::vector<int>& counts, std::vector<int>& offsets,
           Error* error) {
  for (int32_t r = 0; r < world.size; ++r) {
    if (parts[r].bytes > INT_MAX || parts[r].offset > INT_MAX) {
      setError(error, ErrorCode::invalidArgument, "an operation of more than 2^31 - 1 bytes");
      return false;
    }
    counts.push_back(int(parts[r].bytes));
    offsets.push_back(int(parts[r].offset));
  }
  return true;
}

Operation* barrier(WorldHandle*, Error* error) {
  return begin("MPI_Ibarrier", error, [](Operation& o) { return MPI_Ibarrier(MPI_COMM_WORLD, &o.request); });
}

Operation* broadcast(WorldHandle*, void* data, size_t bytes, int32_t root, Error* error) {
  if (bytes > INT_MAX) {
    setError(error, ErrorCode::invalidArgument, "an operation of more than 2^31 - 1 bytes");
    return nullptr;
  }
  return begin("MPI_Ibcast", error,
               [&](Operation& o) { return MPI_Ibcast(data, int(bytes), MPI_BYTE, root, MPI_COMM_WORLD, &o.request); });
}

Operation* exchange(WorldHandle* world, const void* from, const Part* sent, void* to, const Part* received,
                    Error* error) {
  std::vector<int> counts, offsets, otherCounts, otherOffsets;
  if (!place(*world, sent, counts, offsets, error) || !place(*world, received, otherCounts, otherOffsets, error))
    return nullptr;
  return begin("MPI_Ialltoallv", error, [&](Operation& o) {
    o.counts = std::move(counts);
    o.offsets = std::move(offsets);
    o.otherCounts = std::move(otherCounts);
    o.otherOffsets = std::move(otherOffsets);
    return MPI_Ialltoallv(from, o.counts.data(), o.offsets.data(), MPI_BYTE, to, o.otherCounts.data(),
                          o.otherOffsets.data(), MPI_BYTE, MPI_COMM_WORLD, &o.request);
  });
}

Operation* gather(WorldHandle* world, void* data, const Part* parts, Error* error) {
  std::vector<int> counts, offsets;
  if (!place(*world, parts, counts, offsets, error)) return nullptr;
  return begin("MPI_Iallgatherv", error, [&](Operation& o) {
    o.counts = std::move(counts);
    o.offsets = std::move(offsets);
    return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, data, o.counts.data(), o.offsets.data(), MPI_BYTE, MPI_COMM_WORLD,
                           &o.request);
  });
}

bool test(WorldHandle*, Operation* operation, bool* done, Error* error) {
  int flag = 0;
  if (!succeeded(MPI_Test(&operation->request, &flag, MPI_STATUS_IGNORE), "MPI_Test", error)) {
    delete operation;
    return false;
  }
  *done = flag != 0;
  if (flag) delete operation;
  return true;
}

void close(WorldHandle* world) {
  MPI_Finalize();
  delete world;
}

}  // namespace
}  // namespace ddpm

extern "C" __attribute__((visibility("default"))) const ddpm::Collectives* ddpm_collectives(int32_t abi) {
  static const ddpm::Collectives table = {.abi = ddpm::kCollectivesAbi,
                                          .name = "mpi",
                                          .open = ddpm::open,
                                          .info = ddpm::info,
                                          .barrier = ddpm::barrier,
                                          .broadcast = ddpm::broadcast,
                                          .exchange = ddpm::exchange,
                                          .gather = ddpm::gather,
                                          .test = ddpm::test,
                                          .close = ddpm::close};
  return abi == ddpm::kCollectivesAbi ? &table : nullptr;
}
