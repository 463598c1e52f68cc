// The compiler's passes in order: dead nodes, fusion, precision, placement, lowering, memory plan.
#pragma once
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "native/graph/lower.h"
#include "native/graph/rank_sum.h"

namespace ddpm {

// A program without memory: its steps, and where their pointers point (Address) among `storages`.
struct Compiled {
  std::vector<Storage> storages;
  Steps steps;
  // The prologue of 'weights' makes the mirror only, and a step keeps it up with the weights it writes.
  bool keepsMirror = false;
  bool hasRanks = false;  // some steps are computed with other ranks
  SumPlan sum;
  std::set<std::string> names;  // every name that the graph knows: its inputs, outputs and banks
  uint64_t arenaBytes = 0, packedBytes = 0, scratchBytes = 0;
  uint64_t sumBytes = 0;  // of the device, for what ranks exchange meanwhile
};

// `graph` is left as it is. Takes milliseconds, but seconds where the backend times algorithms, of which it times no
// more once `stop` is true. Throws invalid-argument.
Compiled compile(const Graph& graph, const std::map<std::string, ValueId>& outputs, const Target& target,
                 const std::atomic<bool>* stop = nullptr);

// One line a step: the op, its tensors and where they lie, algorithms.
std::string describe(const Compiled& compiled);

// A step's op, algorithm and shapes.
std::string shapesOf(const Step& step);

}  // namespace ddpm
