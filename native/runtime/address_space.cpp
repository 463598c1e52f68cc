#include "native/runtime/address_space.h"

#if defined(__GLIBC__) || __has_include(<malloc.h>)
#include <malloc.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>

#include "native/graph/error.h"

namespace ddpm {
namespace {

// For what V8 and the rest of Node.js still ask for; with less, V8 was seen to end samplings and trainings.
constexpr uint64_t kKept = uint64_t(48) << 20;

// Whether there is a limit, and which.
bool limited(uint64_t& most) {
  rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return false;
  most = limit.rlim_cur;
  return true;
}

// What the modules of the library and of those that it uses take when they are loaded, and then some.
constexpr uint64_t kModules = uint64_t(64) << 20;

// Of this process now; 0 where the system doesn't tell.
uint64_t addressSpace() {
  unsigned long long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    char line[128];
    if (std::fgets(line, sizeof line, file)) std::from_chars(line, line + std::strlen(line), pages);
    std::fclose(file);
  }
  return uint64_t(pages) * uint64_t(sysconf(_SC_PAGESIZE));
}

}  // namespace

void prepareAddressSpace() {
#ifdef M_ARENA_MAX
  uint64_t most;
  if (limited(most)) mallopt(M_ARENA_MAX, 1);
#endif
  leaveRoom(kModules);
}

void leaveRoom(uint64_t bytes) {
  uint64_t most;
  if (!limited(most)) return;
  const uint64_t taken = addressSpace();
  const uint64_t left = most > taken ? most - taken : 0;
  if (left >= kKept && bytes <= left - kKept) return;
  throw Failure("out-of-memory", "no memory for " + std::to_string(bytes) + " bytes: of the " + std::to_string(most) +
                                     " bytes of address space that the process may have (ulimit -v) " +
                                     std::to_string(left) + " are left, and " + std::to_string(kKept) +
                                     " are kept for Node.js");
}

}  // namespace ddpm
