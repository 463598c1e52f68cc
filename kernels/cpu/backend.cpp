#include "kernels/cpu/backend.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "kernels/cpu/bf16/choose.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/peak.h"

namespace ddpm {
namespace cpu {

#define DDPM_DECLARE_ISA(isa)    \
  namespace isa {                \
  void fill(Backend& backend);   \
  double fmaLoop(int64_t count); \
  }
DDPM_DECLARE_ISA(portable)
DDPM_DECLARE_ISA(avx2)
DDPM_DECLARE_ISA(avx512)
#undef DDPM_DECLARE_ISA

void setError(Error* error, ErrorCode code, const char* message) {
  if (!error) return;
  error->code = code;
  snprintf(error->message, sizeof error->message, "%s", message);
}

int coreCount() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? int(n) : 1;
}

namespace {

struct Isa {
  const char* name;
  bool supported;
  void (*fill)(Backend&);
  double (*fmaLoop)(int64_t);
};

struct Choice {
  Isa isa;
  std::string error;  // why DDPM_CPU_ISA can't be had; then isa is portable
};

Choice choose() {
  // Best first.
  const Isa all[] = {
#ifdef DDPM_HAVE_avx512
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
       avx512::fill, avx512::fmaLoop},
#endif
#ifdef DDPM_HAVE_avx2
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"),
       avx2::fill, avx2::fmaLoop},
#endif
      {"portable", true, portable::fill, portable::fmaLoop},
  };
  const Isa& portable = all[sizeof all / sizeof all[0] - 1];
  const char* wanted = getenv("DDPM_CPU_ISA");
  for (const Isa& isa : all) {
    if (wanted && *wanted && strcmp(wanted, isa.name) != 0) continue;
    if (isa.supported) return {isa, ""};
    if (wanted && *wanted) return {portable, std::string("DDPM_CPU_ISA=") + wanted + ": this machine does not have it"};
  }
  std::string names;
  for (const Isa& isa : all) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return {portable, std::string("DDPM_CPU_ISA=") + wanted + ": expected one of " + names};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

const bf16::Choice& bf16Choice() {
  static const bf16::Choice chosen = bf16::choose(std::strcmp(choice().isa.name, "avx512") == 0);
  return chosen;
}

uint64_t physicalMemory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? uint64_t(pages) * uint64_t(size) : 0;
}

// What Linux estimates could be allocated without swapping; elsewhere all there is.
uint64_t availableMemory() {
  unsigned long long kilobytes = 0;
  bool found = false;
  if (FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    constexpr std::string_view kName = "MemAvailable:";
    while (!found && std::fgets(line, sizeof line, file)) {
      if (!std::string_view(line).starts_with(kName)) continue;
      const char* number = line + kName.size() + std::strspn(line + kName.size(), " ");
      found = std::from_chars(number, line + std::strlen(line), kilobytes).ec == std::errc();
    }
    std::fclose(file);
  }
  return found ? uint64_t(kilobytes) * 1024 : physicalMemory();
}

// The processor's name as it gives it itself; "CPU" where it doesn't.
std::string processorName() {
  char name[128] = "";
#if defined(__x86_64__)
  unsigned r[12];
  if (__get_cpuid_max(0x80000000u, nullptr) >= 0x80000004u) {
    for (unsigned i = 0; i < 3; ++i)
      __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    memcpy(name, r, sizeof r);
  }
#elif defined(__APPLE__)
  size_t size = sizeof name - 1;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) != 0) name[0] = 0;
#endif
  std::string s = name;
  const size_t first = s.find_first_not_of(' '), last = s.find_last_not_of(' ');
  return first == std::string::npos ? "CPU" : s.substr(first, last - first + 1);
}

CpuDevice& deviceOf(DeviceHandle* handle) { return *reinterpret_cast<CpuDevice*>(handle); }

int32_t deviceCount(Error* why) {
  const std::string& error = choice().error.empty() ? bf16Choice().error : choice().error;
  if (error.empty()) return 1;
  setError(why, ErrorCode::deviceUnavailable, error.c_str());
  return 0;
}

DeviceHandle* open(const DeviceOptions& options, Error* error) {
  constexpr int kMaxThreads = 1024;
  if (deviceCount(error) == 0) return nullptr;
  if (options.index != 0) {
    setError(error, ErrorCode::deviceUnavailable,
             ("cpu:" + std::to_string(options.index) + ": there is only cpu:0").c_str());
    return nullptr;
  }
  int threads = options.threads;
  if (threads == 0) {
    const char* text = getenv("DDPM_NUM_THREADS");
    if (text && *text) {
      long n = 0;
      const auto [end, failed] = std::from_chars(text, text + std::strlen(text), n);
      if (failed != std::errc() || *end || n < 1 || n > kMaxThreads) {
        setError(error, ErrorCode::invalidArgument,
                 ("DDPM_NUM_THREADS=" + std::string(text) + ": expected an integer from 1 to 1024").c_str());
        return nullptr;
      }
      threads = int(n);
    } else {
      threads = coreCount();
    }
  }
  if (threads < 1 || threads > kMaxThreads) {
    setError(error, ErrorCode::invalidArgument,
             ("threads: expected 1 to 1024, got " + std::to_string(threads)).c_str());
    return nullptr;
  }
  try {
    return reinterpret_cast<DeviceHandle*>(new CpuDevice(threads, bf16Choice().kernel));
  } catch (const std::exception& e) {
    setError(error, ErrorCode::deviceUnavailable, (std::to_string(threads) + " threads: " + e.what()).c_str());
    return nullptr;
  }
}

void close(DeviceHandle* handle) { delete &deviceOf(handle); }

void info(DeviceHandle* handle, DeviceInfo* out) {
  snprintf(out->name, sizeof out->name, "%s", processorName().c_str());
  snprintf(out->isa, sizeof out->isa, "%s", choice().isa.name);
  snprintf(out->bf16, sizeof out->bf16, "%s", bf16Choice().kernel ? bf16Choice().kernel->name : "");
  out->threads = deviceOf(handle).pool.threads();
  out->memoryBytes = physicalMemory();
  out->freeBytes = availableMemory();
}

void* allocate(DeviceHandle*, size_t bytes, Error* error) {
  constexpr size_t kHugePage = size_t(2) << 20;
  const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kCacheLine;
  // Linux grants more than there is and kills the process when it is written to.
  const uint64_t memory = physicalMemory();
  void* p = nullptr;
  if ((memory == 0 || bytes <= memory) && bytes <= SIZE_MAX - kHugePage) {
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    if (posix_memalign(&p, alignment, rounded ? rounded : alignment) != 0) p = nullptr;
#if defined(MADV_HUGEPAGE)
    if (p && alignment == kHugePage)
      madvise(p, rounded, MADV_HUGEPAGE);  // fewer TLB misses; a hint, so the result is ignored
#endif
  }
  if (!p) setError(error, ErrorCode::outOfMemory, ("cpu: no memory for " + std::to_string(bytes) + " bytes").c_str());
  return p;
}

void release(DeviceHandle*, void* p) { free(p); }

bool copy(DeviceHandle*, void* to, const void* from, size_t bytes, Error*) {
  memmove(to, from, bytes);
  return true;
}

bool synchronize(DeviceHandle*, Error*) { return true; }  // everything is done when its call returns

Backend make() {
  Backend b{};
  b.abi = kBackendAbi;
  b.name = "cpu";
  b.precisions = precisionBit(DType::f32) | (bf16Choice().kernel ? precisionBit(DType::bf16) : 0);
  b.lacks = [](DType precision) {
    return precision == DType::bf16 && !bf16Choice().kernel ? bf16Choice().lacks.c_str() : nullptr;
  };
  b.roundsOperands = 1;
  b.weightFormats =
      precisionBit(DType::f32) | precisionBit(DType::f16) | precisionBit(DType::bf16) | precisionBit(DType::i8);
  b.choosesPacking = 1;
  b.upsamplesInConv = 1;
  b.deviceCount = deviceCount;
  b.open = open;
  b.close = close;
  b.info = info;
  b.allocate = allocate;
  b.release = release;
  b.copyIn = b.copyOut = b.copy = copy;
  b.synchronize = synchronize;
  choice().isa.fill(b);
  return b;
}

}  // namespace

double fmaLoop(int64_t count) { return choice().isa.fmaLoop(count); }

}  // namespace cpu

const Backend* cpuBackend() {
  static const Backend backend = cpu::make();
  return &backend;
}

}  // namespace ddpm
