// Nearest upsampling and average pooling, either one's gradient is the other up to a factor; filters that resample. A
// task is a row of an image.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

float* pixel(const Tensor& t, int64_t row, int column) { return t.f32() + (row * t.w + column) * t.ld; }

// f(n, h) for each row of pixels of t, a few rows a task.
template <class F>
void forImageRows(CpuDevice& device, const Tensor& t, const F& f) {
  const int64_t size = int64_t(t.w) * t.c;
  const int64_t grain = size < kElementsPerTask ? kElementsPerTask / size : 1;
  device.pool.parallelRange(int64_t(t.n) * t.h, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(int(row / t.h), int(row % t.h));
  });
}

// y[n,h,w] = scale * x[n, h/size, w/size], and 0 where x has no such pixel.
void spread(CpuDevice& device, const Tensor& x, const Tensor& y, int size, float scale) {
  forImageRows(device, y, [&](int n, int h) {
    for (int w = 0; w < y.w; ++w) {
      float* to = pixel(y, int64_t(n) * y.h + h, w);
      const bool covered = h / size < x.h && w / size < x.w;
      const float* from = covered ? pixel(x, int64_t(n) * x.h + h / size, w / size) : nullptr;
      forChannels(y.c,
                  [&](int64_t c, auto part) { part.store(to + c, covered ? part.load(from + c) * scale : zero()); });
    }
  });
}

// y[n,p,q] = scale * the sum of x over the size x size window of (p, q).
void gather(CpuDevice& device, const Tensor& x, const Tensor& y, int size, float scale) {
  forImageRows(device, y, [&](int n, int p) {
    for (int q = 0; q < y.w; ++q) {
      const float* from = pixel(x, int64_t(n) * x.h + int64_t(p) * size, q * size);
      float* to = pixel(y, int64_t(n) * y.h + p, q);
      forChannels(y.c, [&](int64_t c, auto part) {
        vf sum = zero();
        for (int r = 0; r < size; ++r)
          for (int s = 0; s < size; ++s) sum += part.load(from + (int64_t(r) * x.w + s) * x.ld + c);
        part.store(to + c, sum * scale);
      });
    }
  });
}

}  // namespace

void run(CpuDevice& device, const UpsampleNearest& op, void*) { spread(device, op.x, op.y, op.factor, 1); }

void run(CpuDevice& device, const UpsampleNearestBackward& op, void*) { gather(device, op.dy, op.dx, op.factor, 1); }

void run(CpuDevice& device, const AvgPool& op, void*) {
  gather(device, op.x, op.y, op.kernel, 1.0f / (op.kernel * op.kernel));
}

void run(CpuDevice& device, const AvgPoolBackward& op, void*) {
  spread(device, op.dy, op.dx, op.kernel, 1.0f / (op.kernel * op.kernel));
}

// The pixels of x that one place of y is made of, along one side.
struct FirReach {
  int count = 0;
  int at[kMaxFirTaps];
  float tap[kMaxFirTaps];

  // `first`: of z, the sparse x.
  FirReach(const FirResample& op, int first, int size) {
    for (int r = 0; r < op.count; ++r) {
      const int place = first + r;
      if (place < 0 || place % op.up || place / op.up >= size) continue;
      at[count] = place / op.up;
      tap[count++] = op.taps[r];
    }
  }
};

void run(CpuDevice& device, const FirResample& op, void*) {
  const Tensor &x = op.x, &y = op.y;
  forImageRows(device, y, [&](int n, int h) {
    const FirReach rows(op, h * op.down - op.top, x.h);
    for (int w = 0; w < y.w; ++w) {
      const FirReach columns(op, w * op.down - op.left, x.w);
      float* to = pixel(y, int64_t(n) * y.h + h, w);
      forChannels(y.c, [&](int64_t c, auto part) {
        vf sum = zero();
        for (int r = 0; r < rows.count; ++r)
          for (int s = 0; s < columns.count; ++s) {
            const float* from = pixel(x, int64_t(n) * x.h + rows.at[r], columns.at[s]);
            sum += part.load(from + c) * (rows.tap[r] * columns.tap[s]);
          }
        part.store(to + c, sum);
      });
    }
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
