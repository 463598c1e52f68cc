// The device as the CPU: memory in which every allocation is known, fenced on both sides, and poisoned unless it is too
// large for anything to be executed here.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/cuda/host/memory.h"
#include "kernels/cuda/nccl/communicator.h"

namespace ddpm::cuda {
namespace {

constexpr size_t kFence = 256;  // bytes before and after, which nothing may change
constexpr int kFenceByte = 0xA5;
constexpr int kPoisonByte = 0xFF;  // NaN as f32, -1 as i32
constexpr size_t kMaxPoisoned = size_t(1) << 30;

std::mutex lock;
std::map<uintptr_t, size_t> allocations;  // first byte -> bytes, of all devices

size_t rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + 255) / 256 * 256; }

bool fenced(const unsigned char* fence) {
  return std::all_of(fence, fence + kFence, [](unsigned char b) { return b == kFenceByte; });
}

void checkFences(uintptr_t at, size_t bytes) {
  const auto* memory = reinterpret_cast<const unsigned char*>(at);
  if (!fenced(memory - kFence) || !fenced(memory + rounded(bytes)))
    throw BackendError(ErrorCode::internal,
                       "something wrote beside an allocation of " + std::to_string(bytes) + " bytes");
}

// The bytes must lie in one allocation.
void checkRange(const void* data, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard guard(lock);
  const uintptr_t at = uintptr_t(data);
  auto next = allocations.upper_bound(at);
  if (next != allocations.begin()) {
    const auto [start, size] = *--next;
    if (at - start <= size && bytes <= size - (at - start)) return;
  }
  throw BackendError(ErrorCode::internal,
                     "a tensor or copy of " + std::to_string(bytes) + " bytes is not all device memory");
}

// As in a stream that is captured: nothing that would have to be done now.
void refuseRecording(const char* what) {
  if (host::recorded) throw BackendError(ErrorCode::internal, std::string(what) + " while a program is recorded");
}

}  // namespace

namespace host {
bool refusesRecording(const std::string& what) {
  const char* refused = std::getenv("DDPM_HOST_REFUSES_RECORDING");
  return refused && what.find(refused) != std::string::npos;
}

void record(const std::string& kernel, std::function<void()> work) {
  if (refusesRecording(kernel)) {
    recorded->invalid = true;
    throw BackendError(ErrorCode::internal, "kernel " + kernel + " cannot be recorded");
  }
  recorded->work.push_back(std::move(work));
}

void list(const std::string& kernel, dim3 grid, dim3 block, size_t dynamicShared) {
  Launch launch = {.kernel = {},
                   .grid = {int32_t(grid.x), int32_t(grid.y), int32_t(grid.z)},
                   .block = {int32_t(block.x), int32_t(block.y), int32_t(block.z)},
                   .sharedBytes = dynamicShared};
  std::snprintf(launch.kernel, sizeof launch.kernel, "%s", kernel.c_str());
  listed->push_back(launch);
}

void checkAllocated(const void* data, size_t bytes) {
  if (listed) return;
  checkRange(data, bytes);
  if (recorded) recorded->memory.emplace_back(data, bytes);
}
}  // namespace host

#ifdef DDPM_HOST_CONTRACTED
const char* CudaDevice::backendName() { return "cuda-host-contracted"; }

int32_t CudaDevice::count(Error* why) {
#ifdef __x86_64__
  if (!__builtin_cpu_supports("fma")) {
    why->code = ErrorCode::deviceUnavailable;
    std::snprintf(why->message, sizeof why->message, "the processor has no fused multiply-add");
    return 0;
  }
#endif
  return 1;
}
#else
const char* CudaDevice::backendName() { return "cuda-host"; }

int32_t CudaDevice::count(Error*) { return 1; }
#endif

// DDPM_HOST_MULTIPROCESSORS: plan as for a GPU that has so many.
CudaDevice::CudaDevice(int32_t index) : index_(index), multiprocessors_(4) {
  if (const char* given = std::getenv("DDPM_HOST_MULTIPROCESSORS")) multiprocessors_ = std::max(1, std::atoi(given));
  if (index != 0) throw BackendError(ErrorCode::deviceUnavailable, "there is one cuda-host device, 0");
  stream_ = reinterpret_cast<Stream>(this);  // for libraries of others: no stream has work that waits
  if (std::getenv("DDPM_HOST_LAUNCHES")) std::fprintf(stderr, "device opened\n");
}
CudaDevice::~CudaDevice() {
  if (std::getenv("DDPM_HOST_LAUNCHES")) std::fprintf(stderr, "device closed\n");
  while (!recordings_.empty()) release(*recordings_.begin());
}
void CudaDevice::use() const {}
std::string CudaDevice::memoryNote() const { return ""; }

void CudaDevice::describe(DeviceInfo* out) const {
  std::snprintf(out->name, sizeof out->name, "CUDA kernels executed on the CPU");
  std::snprintf(out->isa, sizeof out->isa, "host");
  out->threads = 1;
  out->memoryBytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  out->freeBytes = out->memoryBytes;  // nothing asks
}

void* CudaDevice::allocate(size_t bytes) {
  const size_t total = rounded(bytes) + 2 * kFence;
  auto* memory = total < bytes ? nullptr : static_cast<unsigned char*>(std::aligned_alloc(256, total));
  if (!memory)
    throw BackendError(ErrorCode::outOfMemory, "out of memory: " + std::to_string(bytes) + " bytes asked for");
  std::memset(memory, kFenceByte, kFence);
  if (bytes <= kMaxPoisoned) std::memset(memory + kFence, kPoisonByte, rounded(bytes));
  std::memset(memory + total - kFence, kFenceByte, kFence);
  const std::lock_guard guard(lock);
  allocations[uintptr_t(memory + kFence)] = bytes;
  return memory + kFence;
}

void CudaDevice::release(void* memory) noexcept {
  if (!memory) return;
  try {
    const std::lock_guard guard(lock);
    const auto found = allocations.find(uintptr_t(memory));
    if (found == allocations.end()) throw BackendError(ErrorCode::internal, "what is released was not allocated");
    const auto [at, bytes] = *found;
    allocations.erase(found);
    checkFences(at, bytes);
    std::free(static_cast<unsigned char*>(memory) - kFence);
  } catch (const BackendError& e) {
    if (deferred_.empty()) deferred_ = e.what();
  }
}

void CudaDevice::copyIn(void* device, const void* host, size_t bytes) {
  refuseRecording("a copy from the host");
  checkRange(device, bytes);
  if (bytes) std::memcpy(device, host, bytes);
}

void CudaDevice::copyOut(void* host, const void* device, size_t bytes) {
  refuseRecording("a copy to the host");
  checkRange(device, bytes);
  if (bytes) std::memcpy(host, device, bytes);
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  host::checkAllocated(to, bytes);
  host::checkAllocated(from, bytes);
  const auto work = [=] { std::memmove(to, from, bytes); };
  if (host::recorded)
    host::recorded->work.push_back(work);
  else
    work();
}

void CudaDevice::synchronize() {
  refuseRecording("waiting");
  if (!deferred_.empty()) throw BackendError(ErrorCode::internal, std::exchange(deferred_, ""));
  const std::lock_guard guard(lock);
  for (const auto& [at, bytes] : allocations) checkFences(at, bytes);
}

// ---------------------------------------------------------------------------------------------------------------------
// Recordings

void CudaDevice::beginRecording() {
  refuseRecording("another recording");
  if (host::refusesRecording("begin")) throw BackendError(ErrorCode::internal, "a recording could not be begun");
  host::recorded = new host::Recorded;
}

Recording* CudaDevice::endRecording() {
  if (!host::recorded) throw BackendError(ErrorCode::internal, "nothing is being recorded");
  std::unique_ptr<host::Recorded> ended(std::exchange(host::recorded, nullptr));
  if (ended->invalid || host::refusesRecording("end"))
    throw BackendError(ErrorCode::internal, "the recording is not valid");
  if (host::refusesRecording("out of memory")) throw BackendError(ErrorCode::outOfMemory, "no memory for a recording");
  if (host::refusesRecording("lost")) throw BackendError(ErrorCode::deviceUnavailable, "the device is lost");
  const auto recording = reinterpret_cast<Recording*>(ended.release());
  recordings_.insert(recording);
  return recording;
}

void CudaDevice::replay(Recording* recording) {
  refuseRecording("a replay");
  const auto& recorded = *reinterpret_cast<host::Recorded*>(recording);
  for (const auto& [data, bytes] : recorded.memory) checkRange(data, bytes);  // it may have been released
  for (const auto& work : recorded.work) work();
}

// All is done in the order in which it is issued.
void CudaDevice::beginAside() {}
void CudaDevice::endAside() {}
void CudaDevice::awaitAside() {}

void CudaDevice::release(Recording* recording) noexcept {
  if (recordings_.erase(recording)) delete reinterpret_cast<host::Recorded*>(recording);
}

}  // namespace ddpm::cuda
