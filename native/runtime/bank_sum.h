// The sum of a bank over all ranks (native/graph/rank_sum.h), computed with them: piece by piece, each rank adds up its
// own part of what all send it, and sends the sum to all. Of n ranks, one sends 2 (n - 1) / n of the bank where its
// share of the batches is one node of the tree (as a ring would), and (nodes + 1) (n - 1) / n else.
#pragma once
#include <condition_variable>
#include <functional>
#include <future>

#include "native/graph/rank_sum.h"
#include "native/runtime/buffer.h"
#include "native/runtime/host_world.h"

namespace ddpm {

// What this rank adds to a sum: banks[i] is what nodes[i] of its batches gave. The last bank gets the sum of all ranks'
// nodes, with the same bits on each; the others are changed.
struct Summands {
  std::vector<std::shared_ptr<Buffer>> banks;
  std::vector<TreeNode> nodes;
  int64_t share;            // batches of each rank
  bool keepsParts = false;  // the last bank gets this rank's own parts of the sum only
};

// On the device's thread: a sum that is there when this returns. Beside the banks it takes some MiB.
void sumBanks(HostWorld& world, const Summands& summands);

// On the device's thread: what this rank has of a tensor goes to the others, and what they have comes.
void gatherParts(HostWorld& world, const Device& device, const RankGather& op);

// A sum whose pieces go out one by one, on the world's thread, while the program that gives them still runs. For banks
// in memory of the host.
class OverlappedSum {
 public:
  OverlappedSum(std::shared_ptr<HostWorld> world, Summands summands, const std::vector<Outgoing>& order);
  // Without `wait` before, not all pieces may be there: this process then leaves the world, as it can't go on with it.
  ~OverlappedSum();
  OverlappedSum(const OverlappedSum&) = delete;
  OverlappedSum& operator=(const OverlappedSum&) = delete;

  // The first `steps` steps of the program are done.
  void ready(int64_t steps);
  // Until the sum is there. Throws rank-failed.
  void wait();

 private:
  void waitFor(int64_t steps);

  const std::shared_ptr<HostWorld> world_;
  std::mutex mutex_;
  std::condition_variable wake_;
  int64_t done_ = 0;
  bool given_up_ = false;
  std::promise<Outcome> end_;
  std::future<Outcome> ended_;
};

// Whether the host reads and writes the device's memory as it is.
bool isOfHost(const Device& device);

}  // namespace ddpm
