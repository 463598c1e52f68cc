// What AddressSanitizer and ThreadSanitizer must be told when a host thread changes its stack. Empty in other builds.
#pragma once
#include <cstddef>

#if defined(__has_feature)
#define DDPM_CLANG_SANITIZES(what) __has_feature(what)
#else
#define DDPM_CLANG_SANITIZES(what) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || DDPM_CLANG_SANITIZES(address_sanitizer)
#define DDPM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__) || DDPM_CLANG_SANITIZES(thread_sanitizer)
#define DDPM_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// A function that is entered and never left, for each thread of a grid: ThreadSanitizer must not count it among its
// calls.
#define DDPM_NEVER_LEFT __attribute__((no_sanitize("thread")))

namespace ddpm::cuda::host {

#ifdef DDPM_ASAN
// AddressSanitizer knows the bounds of the stack that is in use.
class SanitizedStack {
 public:
  // Of the thread itself; where it lies is known once it has been left.
  SanitizedStack() = default;
  SanitizedStack(const void* bottom, size_t bytes) : bottom_(bottom), bytes_(bytes) {}
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
#else
struct SanitizedStack {
  SanitizedStack() = default;
  SanitizedStack(const void*, size_t) {}
  void renew() const {}
  static void before(SanitizedStack*, const SanitizedStack&) {}
  static void after(const SanitizedStack&) {}
};
#endif

#ifdef DDPM_TSAN
// To ThreadSanitizer the fibers of a grid are the one thread that they are: a fiber of its own for each would cost a
// vector of a thousand clocks at every switch. Calls of all of them lie mixed on its call stack, and some never return:
// each grid has a call stack of its own.
class SanitizedGrid {
 public:
  __attribute__((no_sanitize("thread"))) SanitizedGrid() { __tsan_switch_to_fiber(own_, 0); }
  __attribute__((no_sanitize("thread"))) ~SanitizedGrid() {
    __tsan_switch_to_fiber(outer_, 0);
    __tsan_destroy_fiber(own_);
  }
  SanitizedGrid(const SanitizedGrid&) = delete;
  SanitizedGrid& operator=(const SanitizedGrid&) = delete;

 private:
  void* const outer_ = __tsan_get_current_fiber();
  void* const own_ = __tsan_create_fiber(0);
};
#else
struct SanitizedGrid {
  SanitizedGrid() {}  // not trivial: it is declared for its scope
};
#endif

}  // namespace ddpm::cuda::host
