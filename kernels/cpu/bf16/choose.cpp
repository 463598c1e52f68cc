#include "kernels/cpu/bf16/choose.h"

#include <cstdlib>
#include <cstring>

namespace ddpm::cpu {

#define DDPM_DECLARE_BF16(isa)     \
  namespace isa {                  \
  extern const bf16::Kernel kBf16; \
  }
DDPM_DECLARE_BF16(bf16Portable)
DDPM_DECLARE_BF16(bf16Avx512)
#undef DDPM_DECLARE_BF16

namespace bf16 {
namespace {

struct Implementation {
  const Kernel* kernel;
  bool isFast;  // faster than float32, so that it is taken where nothing is asked for
  bool supported;
  const char* needs;
};

#if defined(DDPM_HAVE_bf16Avx512)
bool hasAvx512Bf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

Choice choose(bool hasAvx512) {
  // Best first.
  const Implementation all[] = {
#if defined(DDPM_HAVE_bf16Avx512)
    {&bf16Avx512::kBf16, true, hasAvx512Bf16(), "AVX512-BF16"},
#endif
    {&bf16Portable::kBf16, false, true, ""},
  };
  const char* wanted = std::getenv("DDPM_CPU_BF16");
  if (wanted && !*wanted) wanted = nullptr;
  std::string needs, names;
  for (const Implementation& i : all) {
    if (i.isFast) needs += (needs.empty() ? "" : " or ") + std::string(i.needs);
    names += std::string(i.kernel->name) + ", ";
  }
  const std::string lacks =
      needs.empty() ? "no processor of this kind has bf16 products here" : "a processor with " + needs;
  if (wanted && std::strcmp(wanted, "off") == 0) return {nullptr, "DDPM_CPU_BF16 other than 'off'", ""};
  for (const Implementation& i : all) {
    if (wanted ? std::strcmp(wanted, i.kernel->name) != 0 : !i.isFast || !hasAvx512) continue;
    if (i.supported) return {i.kernel, "", ""};
    if (wanted) return {nullptr, lacks, std::string("DDPM_CPU_BF16=") + wanted + ": this machine has no " + i.needs};
  }
  if (!wanted) return {nullptr, lacks, ""};
  return {nullptr, lacks, std::string("DDPM_CPU_BF16=") + wanted + ": expected one of " + names + "off"};
}

}  // namespace bf16
}  // namespace ddpm::cpu
