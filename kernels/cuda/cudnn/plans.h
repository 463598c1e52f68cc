// From a graph to execution plans: what cuDNN's heuristics advise, without what may not be used.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cudnn/graph.h"

namespace ddpm::cuda::cudnn {

// What the heuristics had to say of a graph. Plans refer to it.
struct Advice {
  Graph graph;
  Descriptor heuristics;
  std::vector<Descriptor> configs;  // of engines, best first
};

struct Plan {
  std::shared_ptr<const Advice> advice;
  Epilogue epilogue;
  size_t workspace;  // bytes
  std::string name;  // "cuDNN engine 4"
  Descriptor plan;
};

// Appends `most` plans at most, best first. Returns why there are not more, of the last that could not be had; never
// throws for what the library says no to.
std::string buildPlans(const Api& api, Handle handle, const ConvProblem& problem, Epilogue epilogue, size_t most,
                       std::vector<Plan>& plans);

// Puts the plan's work on the handle's stream. Throws Failed.
void execute(const Api& api, Handle handle, const Plan& plan, const Addresses& addresses, void* workspace);

}  // namespace ddpm::cuda::cudnn
