// Memory on the CPU, as kernels see it: pointers that check.
//
// Global<T> knows how far its tensor reaches; the memory behind it is checked once, when it is made, to be the
// device's. Shared<T> knows its array, and beside every 4-byte word of shared memory stands who wrote and read it last.
// So reported are: a read or write out of bounds, a read of a word that nothing wrote, a read before cp.async has been
// waited for, and a race: two threads at one word, one of them writing, with neither __syncthreads (an epoch of the
// block) nor, within a warp, __syncwarp (an epoch of the warp) between them.
#pragma once
#include "kernels/cuda/host/counts.h"
#include "kernels/cuda/host/grid.h"
#include "kernels/cuda/vec.h"

namespace ddpm::cuda {
namespace host {

// The device's memory; see runtime.cpp. Throws std::runtime_error when the bytes are not all in one allocation.
void checkAllocated(const void* data, size_t bytes);

[[noreturn]] void globalOutOfBounds(int64_t index, int count, int64_t size);
[[noreturn]] void sharedOutOfBounds(int64_t index, int count, int64_t size);
[[noreturn]] void misaligned(const void* address, size_t bytes);

struct SharedWord {
  uint32_t written;      // epoch of the last write; of an earlier block: never
  uint32_t writtenWarp;  // and the writer's warp epoch
  uint32_t read;         // epoch of the last read
  uint32_t readWarp;
  int16_t writer;
  int16_t reader;  // a thread, or one of the below
  bool pending;    // cp.async is writing it
};
constexpr int16_t kSeveralWarps = -1;
constexpr int16_t kOneWarp = -2;  // several threads of warp kOneWarp - reader

inline std::byte* sharedMemory = nullptr;
inline SharedWord* sharedWords = nullptr;
inline uint32_t blockEpoch = 0;  // the running block's first epoch

void configureSharedMemory(size_t dynamicBytes, size_t limit);
void beginSharedMemory(uint32_t firstEpoch);
// The array of `bytes` that belongs to this declaration; every thread of the block gets the same.
std::byte* staticShared(const void* declaration, size_t bytes);
std::byte* dynamicShared(size_t offset, size_t bytes);

void readWord(SharedWord& w, const void* address);
void writeWord(SharedWord& w, const void* address);

inline SharedWord* wordsOf(const void* address) {
  return sharedWords + (static_cast<const std::byte*>(address) - sharedMemory) / 4;
}
inline void checkRead(const void* address, size_t bytes) {
  SharedWord* w = wordsOf(address);
  const int16_t myWarp = int16_t(kOneWarp - thread->number / kWarp);
  for (size_t i = 0; i < bytes / 4; ++i) {
    // What several warps have read in this epoch, or several lanes of this warp in its epoch, all of them may.
    const bool known =
        w[i].read == epoch && (w[i].reader == kSeveralWarps || (w[i].reader == myWarp && w[i].readWarp == warp->epoch));
    if (!known) readWord(w[i], address);
  }
}
inline void checkWrite(const void* address, size_t bytes) {
  SharedWord* w = wordsOf(address);
  for (size_t i = 0; i < bytes / 4; ++i) writeWord(w[i], address);
}

// cp.async: the bytes come from global memory, `valid` of them, and zeros after. They arrive at waitAsync.
void copyAsync(void* to, const void* from, int bytes, int valid);
void commitAsync();
// Until all but the last `pending` groups of this thread have arrived.
void waitAsync(int pending);

// What Shared<T>::operator[] gives: a T that checks as it is read or written.
template <class T>
class SharedReference {
 public:
  explicit SharedReference(T* at) : at_(at) {}
  SharedReference(const SharedReference&) = default;
  operator T() const {
    checkRead(at_, sizeof(T));
    count(Space::shared, at_, sizeof(T));
    return *at_;
  }
  T operator=(T value) const {
    checkWrite(at_, sizeof(T));
    count(Space::shared, at_, sizeof(T));
    return *at_ = value;
  }
  T operator=(const SharedReference& other) const { return *this = T(other); }
  T operator+=(T value) const { return *this = T(*this) + value; }

 private:
  T* at_;
};

}  // namespace host

template <class T>
class Global {
 public:
  Global() = default;
  // `size` elements of device memory.
  Global(T* data, int64_t size) : data_(data), size_(size) { host::checkAllocated(data, size_t(size) * sizeof(T)); }
  template <class U>
    requires std::is_same_v<const U, T>
  Global(const Global<U>& other) : data_(other.data_), size_(other.size_) {}

  explicit operator bool() const { return data_ != nullptr; }
  T& operator[](int64_t i) const {
    T* element = at(i, 1);
    host::count(host::Space::global, element, sizeof(T));
    return *element;
  }
  T* at(int64_t i, int count) const {
    if (i < 0 || i + count > size_) host::globalOutOfBounds(i, count, size_);
    return data_ + i;
  }

 private:
  template <class U>
  friend class Global;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

template <class T>
class Shared {
  static_assert(sizeof(T) % 4 == 0, "shared memory is watched in words of 4 bytes");

 public:
  Shared() = default;
  Shared(std::byte* data, int64_t size) : data_(reinterpret_cast<T*>(data)), size_(size) {}
  host::SharedReference<T> operator[](int64_t i) const { return host::SharedReference<T>(at(i, 1)); }
  // The part that starts at element i.
  Shared operator+(int64_t i) const {
    Shared rest = *this;
    rest.data_ += i;
    rest.size_ -= i;
    return rest;
  }
  T* at(int64_t i, int count) const {
    if (i < 0 || i + count > size_) host::sharedOutOfBounds(i, count, size_);
    return data_ + i;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// V elements from element i on; their address must be aligned to their size (at most 16 bytes).
template <int V, class T>
Vec<std::remove_const_t<T>, V> load(const Global<T>& from, int64_t i) {
  using Pack = Vec<std::remove_const_t<T>, V>;
  const T* at = from.at(i, V);
  if (uintptr_t(at) % alignof(Pack)) host::misaligned(at, alignof(Pack));
  host::count(host::Space::global, at, sizeof(Pack));
  Pack pack;
  std::memcpy(&pack, at, sizeof pack);
  return pack;
}
template <int V, class T>
void store(const Global<T>& to, int64_t i, const Vec<T, V>& pack) {
  T* at = to.at(i, V);
  if (uintptr_t(at) % alignof(Vec<T, V>)) host::misaligned(at, alignof(Vec<T, V>));
  host::count(host::Space::stored, at, sizeof pack);
  std::memcpy(at, &pack, sizeof pack);
}
template <int V, class T>
Vec<T, V> load(const Shared<T>& from, int64_t i) {
  const T* at = from.at(i, V);
  if (uintptr_t(at) % alignof(Vec<T, V>)) host::misaligned(at, alignof(Vec<T, V>));
  host::checkRead(at, sizeof(T) * V);
  host::count(host::Space::shared, at, sizeof(T) * V);
  Vec<T, V> pack;
  std::memcpy(&pack, at, sizeof pack);
  return pack;
}
template <int V, class T>
void store(const Shared<T>& to, int64_t i, const Vec<T, V>& pack) {
  T* at = to.at(i, V);
  if (uintptr_t(at) % alignof(Vec<T, V>)) host::misaligned(at, alignof(Vec<T, V>));
  host::checkWrite(at, sizeof pack);
  host::count(host::Space::shared, at, sizeof pack);
  std::memcpy(at, &pack, sizeof pack);
}

// `count` elements of the launch's dynamic shared memory, from a byte offset (a multiple of 16).
template <class T>
Shared<T> dynamicShared(size_t offset, int64_t count) {
  return {host::dynamicShared(offset, size_t(count) * sizeof(T)), count};
}

}  // namespace ddpm::cuda

// A block's array, `name`: Shared<T> of `count` elements (a constant).
#define DDPM_SHARED(T, name, count) \
  static char name##Declaration;    \
  const ::ddpm::cuda::Shared<T> name(::ddpm::cuda::host::staticShared(&name##Declaration, sizeof(T) * (count)), count)
