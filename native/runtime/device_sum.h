// Sums and gatherings of a bank where devices reach one another (device_world.h): as in bank_sum.h, but all of it is
// asked of the device, and may be recorded with a program's steps. On the device's thread.
#pragma once
#include <memory>
#include <vector>

#include "native/runtime/bank_sum.h"
#include "native/runtime/device_world.h"

namespace ddpm {

// Pieces go out beside the steps that are issued after those by which they are whole.
class DeviceSum {
 public:
  class Pieces;

  // `scratch`: sumScratchBytes() of the device's memory, which no step has.
  DeviceSum(DeviceWorld& world, const Summands& summands, const std::vector<Outgoing>& order, float* scratch);
  ~DeviceSum();

  // The first `steps` steps of the program are issued.
  void ready(int64_t steps);
  // All are that it waits for: what is issued afterwards has the sum.
  void finish();

 private:
  DeviceWorld& world_;
  const std::vector<Outgoing>& order_;
  const std::unique_ptr<Pieces> pieces_;
  size_t next_ = 0;  // of order_
  bool finished_ = false;
};

// The same of banks beside any program: the sum is there when this returns.
void sumBanks(DeviceWorld& world, const Summands& summands);
void enqueueGather(DeviceWorld& world, const Device& device, const RankGather& op);

}  // namespace ddpm
