#include "native/runtime/run_queue.h"

namespace ddpm {

bool RunQueue::next() {
  const auto ends = [this] { return stopped_ || next_ == runs_.size() || runs_[next_].program->isRetired(); };
  if (!ends()) {
    const Run& run = runs_[next_++];
    run.program->run(run.bindings, false);
  }
  if (!ends()) return true;
  Error error;
  if (!device_->backend().synchronize(device_->handle(), &error)) throw toFailure(error);
  return false;
}

}  // namespace ddpm
