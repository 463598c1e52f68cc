// Sums and gatherings of a bank where devices reach one another (device_world.h): as in bank_sum.h, but all of it is
// asked of the device, in the order of its stream, and may be recorded with a program's steps.
#pragma once
#include "native/runtime/bank_sum.h"
#include "native/runtime/device_world.h"

namespace ddpm {

// On the device's thread. `scratch`: sumScratchBytes() of its memory.
void enqueueSum(DeviceWorld& world, const Summands& summands, float* scratch);
// The same of banks beside any program: the sum is there when this returns.
void sumBanks(DeviceWorld& world, const Summands& summands);
void enqueueGather(DeviceWorld& world, const Device& device, const RankGather& op);

}  // namespace ddpm
