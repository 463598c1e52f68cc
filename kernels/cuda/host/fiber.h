// A context switch and nothing else: one host thread runs many stacks in turn. About 5 ns a switch, where swapcontext
// would enter the kernel for the signal mask.
#pragma once
#include <cstddef>

namespace ddpm::cuda::host {

// Stacks of one size, each above a page that faults, so that an overflow is a crash where it happens and not a wrong
// number.
class FiberStacks {
 public:
  FiberStacks(int count, size_t bytes);
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  int count() const { return count_; }
  // One past the highest byte of stack i.
  void* top(int i) const;

 private:
  int count_;
  size_t stride_;
  char* memory_;
};

// A suspended context: its stack pointer.
using Context = void*;

// A context that will call `entry` when it is switched to. `entry` must not return.
Context makeContext(void* stackTop, void (*entry)());

// Suspends the running context into `from` and resumes `to`.
void switchContext(Context* from, Context to);

}  // namespace ddpm::cuda::host
