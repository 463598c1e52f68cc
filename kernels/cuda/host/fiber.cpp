#include "kernels/cuda/host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace ddpm::cuda::host {

FiberStacks::FiberStacks(int count, size_t bytes) : count_(count) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  stride_ = (bytes + page - 1) / page * page + page;
  void* memory = mmap(nullptr, stride_ * size_t(count), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) {
    char* const guard = memory_ + size_t(i) * stride_;
    mprotect(guard, page, PROT_NONE);
    sanitized_.emplace_back(guard + page, stride_ - page);
  }
}

FiberStacks::~FiberStacks() { munmap(memory_, stride_ * size_t(count_)); }

void* FiberStacks::top(int i) const { return memory_ + size_t(i + 1) * stride_; }

}  // namespace ddpm::cuda::host

// The registers that a called function must keep are saved on the stack that is left, and taken from the one that is
// entered.
#if defined(__x86_64__)

extern "C" void ddpmSwitchContext(void** from, void* to) asm("ddpmSwitchContext");
asm(R"(
.text
ddpmSwitchContext:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace ddpm::cuda::host {

// Six registers, the address that `ret` goes to, and a null return address: on entry rsp is 8 below a multiple of 16.
static void* firstFrame(void* stackTop, void (*entry)()) {
  void** frame = static_cast<void**>(stackTop) - 8;
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);
  return frame;
}

}  // namespace ddpm::cuda::host

#elif defined(__aarch64__)

extern "C" void ddpmSwitchContext(void** from, void* to) asm("ddpmSwitchContext");
asm(R"(
.text
.p2align 2
ddpmSwitchContext:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");

namespace ddpm::cuda::host {

static void* firstFrame(void* stackTop, void (*entry)()) {
  uint64_t* frame = static_cast<uint64_t*>(stackTop) - 20;
  std::memset(frame, 0, 20 * sizeof(uint64_t));
  frame[11] = reinterpret_cast<uint64_t>(entry);  // x30, where `ret` goes
  return frame;
}

}  // namespace ddpm::cuda::host

#else
#error "kernels/cuda/host/fiber.cpp has a context switch for x86-64 and AArch64 only"
#endif

namespace ddpm::cuda::host {
namespace {

// The one that was entered last on this thread.
thread_local Context* running = nullptr;

DDPM_NEVER_LEFT void enter() {
  SanitizedStack::after(running->stack);
  running->entry();
}

}  // namespace

Context makeContext(const FiberStacks& stacks, int i, void (*entry)()) {
  stacks.sanitized(i).renew();
  return {firstFrame(stacks.top(i), enter), entry, stacks.sanitized(i)};
}

void switchContext(Context& from, Context& to) {
  running = &to;
  SanitizedStack::before(&from.stack, to.stack);
  ddpmSwitchContext(&from.stackPointer, to.stackPointer);
  SanitizedStack::after(from.stack);
}

DDPM_NEVER_LEFT void leaveContext(Context& to) {
  static thread_local void* left;  // not on the stack: AddressSanitizer frees its part of it
  running = &to;
  SanitizedStack::before(nullptr, to.stack);
  ddpmSwitchContext(&left, to.stackPointer);
  __builtin_unreachable();
}

}  // namespace ddpm::cuda::host
