#include "kernels/cuda/host/memory.h"

#include <algorithm>
#include <stdexcept>

namespace ddpm::cuda::host {
namespace {

constexpr size_t kMaxStaticBytes = 48 << 10;

struct Declaration {
  const void* key;
  size_t offset;
};

std::vector<Declaration> declarations;
size_t dynamicBytes, staticBytes, limitBytes;

std::string nameOf(int reader) {
  if (reader == kSeveralWarps) return "threads of several warps";
  if (reader <= kOneWarp) return "threads of warp " + std::to_string(kOneWarp - reader);
  return "thread number " + std::to_string(reader);
}

std::string wordOf(const void* address) {
  return "shared memory at byte " + std::to_string(static_cast<const std::byte*>(address) - sharedMemory);
}

// Whether a barrier lies between an access of `other` and now.
bool ordered(uint32_t then, uint32_t warpThen, int other) {
  return then != epoch || (other / kWarp == thread->number / kWarp && warpThen < warp->epoch);
}

[[noreturn]] void badRead(const SharedWord& w, const void* address) {
  if (w.written < blockEpoch) fail("reads " + wordOf(address) + ", which nothing wrote");
  if (w.pending) fail("reads " + wordOf(address) + " before its cp.async was waited for");
  fail("races: reads " + wordOf(address) + ", which " + nameOf(w.writer) + " wrote with no barrier between");
}

[[noreturn]] void badWrite(const SharedWord& w, const void* address) {
  const bool written =
      w.written >= blockEpoch && w.writer != thread->number && !ordered(w.written, w.writtenWarp, w.writer);
  fail("races: writes " + wordOf(address) + ", which " +
       (written ? nameOf(w.writer) + " wrote" : nameOf(w.reader) + " read") + " with no barrier between");
}

}  // namespace

// The dynamic array comes first, then the static ones as they are met.
void configureSharedMemory(size_t dynamic, size_t limit) {
  if (!sharedMemory) {
    sharedMemory = static_cast<std::byte*>(std::aligned_alloc(128, limit));
    sharedWords = static_cast<SharedWord*>(std::calloc(limit / 4, sizeof(SharedWord)));
    if (!sharedMemory || !sharedWords) throw std::bad_alloc();
  }
  if (epoch > 1u << 31) {
    epoch = 0;
    std::fill_n(sharedWords, limit / 4, SharedWord{});
  }
  dynamicBytes = dynamic;
  staticBytes = 0;
  limitBytes = limit;
  declarations.clear();
}

void beginSharedMemory(uint32_t firstEpoch) { blockEpoch = firstEpoch; }

std::byte* staticShared(const void* declaration, size_t bytes) {
  for (const Declaration& d : declarations)
    if (d.key == declaration) return sharedMemory + d.offset;
  const size_t offset = (dynamicBytes + 15) / 16 * 16 + staticBytes;
  staticBytes += (bytes + 15) / 16 * 16;
  if (staticBytes > kMaxStaticBytes) fail("declares " + std::to_string(staticBytes) + " bytes of static shared memory");
  if (offset + bytes > limitBytes) fail("uses more than " + std::to_string(limitBytes) + " bytes of shared memory");
  declarations.push_back({declaration, offset});
  return sharedMemory + offset;
}

std::byte* dynamicShared(size_t offset, size_t bytes) {
  if (offset % 16 || offset + bytes > dynamicBytes)
    fail("takes bytes [" + std::to_string(offset) + ", " + std::to_string(offset + bytes) + ") of " +
         std::to_string(dynamicBytes) + " bytes of dynamic shared memory");
  return sharedMemory + offset;
}

void globalOutOfBounds(int64_t index, int count, int64_t size) {
  fail("reaches elements [" + std::to_string(index) + ", " + std::to_string(index + count) + ") of a tensor of " +
       std::to_string(size));
}

void sharedOutOfBounds(int64_t index, int count, int64_t size) {
  fail("reaches elements [" + std::to_string(index) + ", " + std::to_string(index + count) + ") of a shared array of " +
       std::to_string(size));
}

void misaligned(const void* address, size_t bytes) {
  fail("reaches address " + std::to_string(uintptr_t(address) % 256) + " modulo 256, which is not aligned to " +
       std::to_string(bytes) + " bytes");
}

void readWord(SharedWord& w, const void* address) {
  const int me = thread->number;
  if (w.written < blockEpoch || w.pending || (w.writer != me && !ordered(w.written, w.writtenWarp, w.writer)))
    badRead(w, address);
  if (w.read != epoch) {
    w.read = epoch;
    w.reader = int16_t(me);
  } else if (w.reader != me && w.reader != kSeveralWarps) {
    const int readers = w.reader >= 0 ? w.reader / kWarp : kOneWarp - w.reader;
    w.reader = readers == me / kWarp ? int16_t(kOneWarp - readers) : kSeveralWarps;
  }
  w.readWarp = warp->epoch;
}

void writeWord(SharedWord& w, const void* address) {
  const int me = thread->number;
  if (w.written >= blockEpoch && w.writer != me && !ordered(w.written, w.writtenWarp, w.writer)) badWrite(w, address);
  if (w.read == epoch && w.reader != me) {
    const int readers = w.reader >= 0 ? w.reader / kWarp : kOneWarp - w.reader;
    if (w.reader == kSeveralWarps || readers != me / kWarp || w.readWarp >= warp->epoch) badWrite(w, address);
  }
  w.written = epoch;
  w.writtenWarp = warp->epoch;
  w.writer = int16_t(me);
  w.pending = false;
}

void copyAsync(void* to, const void* from, int bytes, int valid) {
  checkWrite(to, size_t(bytes));
  if (counting) {  // two requests of one place
    const char* place = static_cast<const char*>(__builtin_return_address(0));
    countAt(place, Space::shared, to, size_t(bytes));
    if (valid) countAt(place + 1, Space::global, from, size_t(valid));
  }
  for (int i = 0; i < bytes / 4; ++i) wordsOf(to)[i].pending = true;
  thread->copies.push_back({to, from, bytes, valid, thread->group});
}

void commitAsync() { ++thread->group; }

void waitAsync(int pending) {
  auto arrives = [&](const AsyncCopy& copy) { return copy.group < thread->group - pending; };
  for (const AsyncCopy& copy : thread->copies) {
    if (!arrives(copy)) continue;
    checkWrite(copy.to, size_t(copy.bytes));
    if (copy.valid) std::memcpy(copy.to, copy.from, size_t(copy.valid));
    std::memset(static_cast<std::byte*>(copy.to) + copy.valid, 0, size_t(copy.bytes - copy.valid));
  }
  std::erase_if(thread->copies, arrives);
}

}  // namespace ddpm::cuda::host
