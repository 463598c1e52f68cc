// What a backend needs for a step of a program: scratch memory and, where it can tell, the kernels that it launches.
#pragma once
#include <vector>

#include "native/graph/step.h"
#include "native/runtime/device.h"

namespace ddpm {

struct StepNeeds {
  size_t scratchBytes = 0;
  bool known = false;  // whether the backend tells what it launches
  std::vector<Launch> launches;
};

// The step's pointers may be addresses still. Any thread.
StepNeeds needsOf(const Device& device, const Step& step);

}  // namespace ddpm
