#include "kernels/cpu/bf16/choose.h"

#include <cstdlib>
#include <cstring>

#if defined(DDPM_HAVE_bf16Amx)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ddpm::cpu {

#define DDPM_DECLARE_BF16(isa)     \
  namespace isa {                  \
  extern const bf16::Kernel kBf16; \
  }
DDPM_DECLARE_BF16(bf16Amx)
DDPM_DECLARE_BF16(bf16Avx512)
DDPM_DECLARE_BF16(bf16AmxEmulated)
DDPM_DECLARE_BF16(bf16Portable)
#undef DDPM_DECLARE_BF16

namespace bf16 {
namespace {

struct Implementation {
  const Kernel* kernel;
  const char* needs;  // of the processor; null: nothing, and it is slower than float32
  bool (*supported)();
};

#if defined(DDPM_HAVE_bf16Avx512)
bool hasAvx512Bf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(DDPM_HAVE_bf16Amx)
// The processor has tiles, and Linux lets this process use their registers (Documentation/arch/x86/xstate.rst).
bool hasAmx() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // of CPUID leaf 7's EDX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;   // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!hasAvx512Bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kAmxBf16) && (d & kAmxTile) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

Choice choose(bool hasAvx512) {
  // Best first.
  const Implementation all[] = {
#if defined(DDPM_HAVE_bf16Amx)
    {&bf16Amx::kBf16, "AMX-BF16", hasAmx},
#endif
#if defined(DDPM_HAVE_bf16Avx512)
    {&bf16Avx512::kBf16, "AVX512-BF16", hasAvx512Bf16},
#endif
    {&bf16Portable::kBf16, nullptr, nullptr},
    {&bf16AmxEmulated::kBf16, nullptr, nullptr},
  };
  const char* wanted = std::getenv("DDPM_CPU_BF16");
  if (wanted && !*wanted) wanted = nullptr;
  if (wanted && std::strcmp(wanted, "off") == 0) return {nullptr, "DDPM_CPU_BF16 other than 'off'", ""};
  std::string needs, names;
  for (const Implementation& i : all) {
    if (i.needs) needs += (needs.empty() ? "a processor with " : " or ") + std::string(i.needs);
    names += std::string(i.kernel->name) + ", ";
  }
  const std::string lacks = needs.empty() ? "another kind of processor" : needs;
  for (const Implementation& i : all) {
    if (wanted ? std::strcmp(wanted, i.kernel->name) != 0 : !i.needs || !hasAvx512) continue;
    if (!i.needs || i.supported()) return {i.kernel, "", ""};
    if (wanted) return {nullptr, lacks, std::string("DDPM_CPU_BF16=") + wanted + ": this machine has no " + i.needs};
  }
  if (!wanted) return {nullptr, lacks, ""};
  return {nullptr, lacks, std::string("DDPM_CPU_BF16=") + wanted + ": expected one of " + names + "off"};
}

}  // namespace bf16
}  // namespace ddpm::cpu
