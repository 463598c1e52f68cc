// What the stand-in for the CUDA runtime has seen, and what it does not forgive.
#pragma once
#include <cstddef>
#include <string>

namespace fake {

// A use that a GPU would not have caught, or not here: prints it and aborts, so that no test passes over it.
[[noreturn]] void violation(const std::string& what);

// Counted by name ("launch", "capture", ...), and written when the process ends to the file FAKE_CUDART_REPORT names,
// as JSON: { counts: {...}, kernels: { name: launches } } with every kernel of the library.
void count(const std::string& what, size_t times = 1);
void countKernel(const std::string& name, size_t times);

}  // namespace fake
