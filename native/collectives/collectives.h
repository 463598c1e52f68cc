// What a library offers that moves numbers between processes: one table, as a backend has one (kernels/backend.h). It
// is beside the addon and opened when it is asked for; it exports `ddpm_collectives`. Processes that were started
// together are ranks 0 ... size - 1. All of them begin the same operations in the same order.
#pragma once
#include "kernels/backend.h"

namespace ddpm {

constexpr int32_t kCollectivesAbi = 1;

struct WorldInfo {
  int32_t rank, size;
  char library[256];  // "Open MPI v4.1.4"
};

struct WorldHandle;  // the library's own
struct Operation;    // the same; one that is under way

// Everything is called by one thread. What an operation reads and writes is memory of the host, at most 2^31 - 1 bytes
// a part, and stays where it is until it is done.
struct Collectives {
  int32_t abi;
  const char* name;

  // Joins the others; once a process. Null with the reason where that fails.
  WorldHandle* (*open)(Error*);
  void (*info)(WorldHandle*, WorldInfo*);

  // These begin an operation, or return null.
  Operation* (*barrier)(WorldHandle*, Error*);
  Operation* (*broadcast)(WorldHandle*, void* data, size_t bytes, int32_t root, Error*);
  // sent[r] of `from` goes to rank r, and what comes from it to received[r] of `to`.
  Operation* (*exchange)(WorldHandle*, const void* from, const Part* sent, void* to, const Part* received, Error*);
  // parts[r] of `data` of rank r goes to the same place of all.
  Operation* (*gather)(WorldHandle*, void* data, const Part* parts, Error*);
  // Whether it is done, and then it is no more.
  bool (*test)(WorldHandle*, Operation*, bool* done, Error*);

  // Leaves, when all others do.
  void (*close)(WorldHandle*);
};

}  // namespace ddpm

// Null where it does not serve that ABI.
extern "C" {
typedef const ddpm::Collectives* (*DdpmCollectivesFn)(int32_t abi);
}
