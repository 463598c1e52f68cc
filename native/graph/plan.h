// Memory by liveness: storages that are never needed at the same time share a place in the arena.
#pragma once
#include <vector>

#include "native/graph/placement.h"

namespace ddpm {

// So that what lies behind it can be any tensor.
constexpr uint64_t aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// Sets the offsets of the arena's storages and returns the arena's size in bytes. Greedy by size, best fit, as in
// Pisarchyk & Lee 2020, "Efficient memory management for deep neural net inference".
uint64_t planArena(std::vector<Storage>& storages, std::vector<Step>& steps);

// One after the other; returns the size in bytes.
uint64_t planPacked(std::vector<Storage>& storages);

}  // namespace ddpm
