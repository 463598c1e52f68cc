// A context switch and nothing else: one host thread runs many stacks in turn. About 5 ns a switch, where swapcontext
// would enter the kernel for the signal mask.
#pragma once
#include <cstddef>
#include <vector>

#include "kernels/cuda/host/sanitized_stack.h"

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
  const SanitizedStack& sanitized(int i) const { return sanitized_[size_t(i)]; }

 private:
  int count_;
  size_t stride_;
  char* memory_;
  std::vector<SanitizedStack> sanitized_;
};

// A suspended context.
struct Context {
  void* stackPointer = nullptr;
  void (*entry)() = nullptr;
  SanitizedStack stack = {};
};

// A context that will call `entry` on stack i when it is switched to. `entry` must not return; it ends by leaveContext.
Context makeContext(const FiberStacks& stacks, int i, void (*entry)());

// Suspends the running context into `from` and resumes `to`.
void switchContext(Context& from, Context& to);

// Resumes `to`, and the running context never again.
[[noreturn]] void leaveContext(Context& to);

}  // namespace ddpm::cuda::host
