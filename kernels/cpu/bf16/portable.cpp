// The portable implementation: what TDPBF16PS computes, step by step of 32 elements of the depth.
#include "kernels/cpu/bf16/arithmetic.h"
#include "kernels/cpu/bf16/pack.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int kStep = 16;

// One row of a step: sums of even and of odd elements, then both to the row of sums.
void multiplyStep(const uint32_t* row, const uint32_t* panel, int width, float* sums) {
  float even[bf16::kColumns] = {}, odd[bf16::kColumns] = {};
  for (int p = 0; p < kStep; ++p) {
    const float a = evenOf(row[p]), b = oddOf(row[p]);
    for (int i = 0; i < width; ++i) {
      const uint32_t pair = panel[p * width + i];
      even[i] = multiplyAdd(a, evenOf(pair), even[i]);
      odd[i] = multiplyAdd(b, oddOf(pair), odd[i]);
    }
  }
  for (int i = 0; i < width; ++i) sums[i] = add(sums[i], add(even[i], odd[i]));
}

void multiply(const bf16::Product& o) {
  for (int r = 0; r < o.count; ++r) {
    float* const sums = o.sums + r * bf16::kColumns;
    if (!o.adds)
      for (int i = 0; i < o.width; ++i) sums[i] = 0.0f;
    for (int64_t p = 0; p < o.pairs; p += kStep) multiplyStep(o.rows[r] + p, o.panel + p * o.width, o.width, sums);
  }
}

}  // namespace

extern const bf16::Kernel kBf16;
const bf16::Kernel kBf16 = {"portable", 8, kStep, 1.9, roundRow, packMatrix, multiply};

}  // namespace ddpm::cpu::DDPM_ISA
