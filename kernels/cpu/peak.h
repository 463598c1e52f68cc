// The machine's peak of fused multiply-adds, to measure kernels against.
#pragma once
#include <cstdint>

namespace ddpm::cpu {

// GFLOP/s (two an FMA) of `threads` threads together (0: one a core), with the instruction set that the backend uses:
// the best of the slices measured within `seconds`, since other work on the machine can only lower it.
double measureFmaPeak(int threads, double seconds);

// Runs `count` rounds of a loop of FMAs on the calling thread; returns the floating-point operations of a round.
double fmaLoop(int64_t count);

// Cores that this process may run on.
int coreCount();

}  // namespace ddpm::cpu
