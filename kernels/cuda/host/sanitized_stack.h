// What AddressSanitizer and ThreadSanitizer must be told when a host thread changes its stack. Empty in other builds.
#pragma once
#include <cstddef>

#if defined(__has_feature)
#define DDPM_CLANG_SANITIZES(what) __has_feature(what)
#else
#define DDPM_CLANG_SANITIZES(what) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || DDPM_CLANG_SANITIZES(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace ddpm::cuda::host {

class SanitizedStack {
 public:
  // Of the thread itself; where it lies is known once it has been left.
  SanitizedStack() = default;
  SanitizedStack(const void* bottom, size_t bytes) : bottom_(bottom), bytes_(bytes) {}
  void destroy() {}
  // Frames of an earlier fiber, which never returned, have left their redzones.
  void renew() const { __asan_unpoison_memory_region(bottom_, bytes_); }

  // Around a switch: on the stack that is left (null: it will not be resumed), then on the one that is entered.
  static void before(SanitizedStack* from, const SanitizedStack& to) {
    left = from;
    __sanitizer_start_switch_fiber(from ? &from->fakeStack_ : nullptr, to.bottom_, to.bytes_);
  }
  static void after(const SanitizedStack& entered) {
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(entered.fakeStack_, &bottom, &bytes);
    if (!left) return;
    left->bottom_ = bottom;
    left->bytes_ = bytes;
  }

 private:
  static inline thread_local SanitizedStack* left = nullptr;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fakeStack_ = nullptr;
};

}  // namespace ddpm::cuda::host

#elif defined(__SANITIZE_THREAD__) || DDPM_CLANG_SANITIZES(thread_sanitizer)
#include <sanitizer/tsan_interface.h>

// Where fibers begin and change: entered and left unequally often, which ThreadSanitizer's call stack would not bear.
#define DDPM_SWITCHES_STACKS __attribute__((no_sanitize("thread")))

namespace ddpm::cuda::host {

class SanitizedStack {
 public:
  SanitizedStack() = default;
  SanitizedStack(const void*, size_t) : fiber_(__tsan_create_fiber(0)) {}
  void destroy() { __tsan_destroy_fiber(fiber_); }
  void renew() const {}

  DDPM_SWITCHES_STACKS static void before(SanitizedStack* from, const SanitizedStack& to) {
    if (from) from->fiber_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.fiber_, 0);
  }
  static void after(const SanitizedStack&) {}

 private:
  void* fiber_ = nullptr;
};

}  // namespace ddpm::cuda::host

#else
namespace ddpm::cuda::host {

struct SanitizedStack {
  SanitizedStack() = default;
  SanitizedStack(const void*, size_t) {}
  void destroy() {}
  void renew() const {}
  static void before(SanitizedStack*, const SanitizedStack&) {}
  static void after(const SanitizedStack&) {}
};

}  // namespace ddpm::cuda::host
#endif

#ifndef DDPM_SWITCHES_STACKS
#define DDPM_SWITCHES_STACKS
#endif
