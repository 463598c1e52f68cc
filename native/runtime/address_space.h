// Where a process may have only so much address space (ulimit -v), V8 ends it when it can't have memory for JavaScript.
// Memory of ours that would leave V8 too little is refused instead, while that is still an error that one can handle.
#pragma once
#include <cstdint>

namespace ddpm {

// When the addon is loaded: where there is a limit, glibc's malloc reserves no 64 MiB for each further thread. Throws
// out-of-memory where not even the library's JavaScript could be loaded.
void prepareAddressSpace();

// Throws out-of-memory with both numbers where `bytes` more would leave too little. Costs nothing to speak of without a
// limit.
void leaveRoom(uint64_t bytes);

}  // namespace ddpm
