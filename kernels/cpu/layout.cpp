// Samples as flat CHW <-> NHWC: a transposition of C x pixels for each sample.
#include "kernels/cpu/device.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

constexpr int64_t kBlock = 64;  // pixels of a task: their lines stay in L1 while the channels go by

// f(n, p, c, count): `count` pixels from p on of channel c, for all channels of a block of pixels.
template <class F>
void forBlocks(CpuDevice& device, const Tensor& nhwc, const F& f) {
  const int64_t area = int64_t(nhwc.h) * nhwc.w, blocks = (area + kBlock - 1) / kBlock;
  device.pool.parallelRange(nhwc.n * blocks, nhwc.c < 64 ? 64 : 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t p = task % blocks * kBlock;
      for (int c = 0; c < nhwc.c; ++c) f(task / blocks, p, c, area - p < kBlock ? area - p : kBlock);
    }
  });
}

}  // namespace

void run(CpuDevice& device, const ToNhwc& op, void*) {
  const int64_t area = int64_t(op.y.h) * op.y.w, ld = op.y.ld;
  forBlocks(device, op.y, [&](int64_t n, int64_t p, int c, int64_t count) {
    const float* __restrict x = op.x.f32() + n * op.x.ld + c * area + p;
    float* __restrict y = op.y.f32() + (n * area + p) * ld + c;
    for (int64_t i = 0; i < count; ++i) y[i * ld] = x[i];
  });
}

void run(CpuDevice& device, const ToNchw& op, void*) {
  const int64_t area = int64_t(op.x.h) * op.x.w, ld = op.x.ld;
  forBlocks(device, op.x, [&](int64_t n, int64_t p, int c, int64_t count) {
    const float* __restrict x = op.x.f32() + (n * area + p) * ld + c;
    float* __restrict y = op.y.f32() + n * op.y.ld + c * area + p;
    for (int64_t i = 0; i < count; ++i) y[i] = x[i * ld];
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
