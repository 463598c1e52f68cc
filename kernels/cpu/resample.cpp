// Nearest upsampling and average pooling, either one's gradient is the other up to a factor; other pooling, filters
// that resample, bilinear resizing. A task is a row of an image.
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

// The pixels of x in one window of a pool, along one side.
struct PoolReach {
  int begin, end;

  PoolReach(const Pool& op, int place, int padding, int size) {
    const int first = place * op.stride - padding;
    begin = first < 0 ? 0 : first;
    end = size - first < op.kernel ? size : first + op.kernel;
  }
};

// Of each window: merge(a, b) from pixel to pixel, and finish(all, count).
template <class Merge, class Finish>
static void pool(CpuDevice& device, const Pool& op, const Merge& merge, const Finish& finish) {
  const Tensor &x = op.x, &y = op.y;
  forImageRows(device, y, [&](int n, int p) {
    const PoolReach rows(op, p, op.padTop, x.h);
    for (int q = 0; q < y.w; ++q) {
      const PoolReach columns(op, q, op.padLeft, x.w);
      const int count = (rows.end - rows.begin) * (columns.end - columns.begin);
      float* to = pixel(y, int64_t(n) * y.h + p, q);
      forChannels(y.c, [&](int64_t c, auto part) {
        vf all = part.load(pixel(x, int64_t(n) * x.h + rows.begin, columns.begin) + c);
        int first = columns.begin + 1;
        for (int h = rows.begin; h < rows.end; ++h, first = columns.begin)
          for (int w = first; w < columns.end; ++w) all = merge(all, part.load(pixel(x, int64_t(n) * x.h + h, w) + c));
        part.store(to + c, finish(all, count));
      });
    }
  });
}

void run(CpuDevice& device, const Pool& op, void*) {
  if (op.type == PoolType::max) {
    const auto larger = [](vf a, vf b) { return select((b > a) | (b != b), b, a); };
    pool(device, op, larger, [](vf most, int) { return most; });
  } else {
    pool(
        device, op, [](vf a, vf b) { return a + b; }, [](vf sum, int count) { return sum * (1.0f / float(count)); });
  }
}

// The two pixels of x that place p of y lies between, along one side, and their weights.
struct Between {
  int at[2];
  float weight[2];

  Between(int p, int size, int outSize) {
    const int64_t twice = 2 * int64_t(outSize), place = (2 * int64_t(p) + 1) * size - outSize;  // in 1/twice pixels
    at[0] = place < 0 ? 0 : int(place / twice);
    at[1] = at[0] + 1 < size ? at[0] + 1 : at[0];
    weight[1] = place < 0 ? 0 : float(place % twice) / float(twice);
    weight[0] = 1 - weight[1];
  }
};

void run(CpuDevice& device, const ResizeBilinear& op, void*) {
  const Tensor &x = op.x, &y = op.y;
  forImageRows(device, y, [&](int n, int p) {
    const Between rows(p, x.h, y.h);
    for (int q = 0; q < y.w; ++q) {
      const Between columns(q, x.w, y.w);
      float* to = pixel(y, int64_t(n) * y.h + p, q);
      forChannels(y.c, [&](int64_t c, auto part) {
        vf line[2];
        for (int i = 0; i < 2; ++i) {
          const int64_t row = int64_t(n) * x.h + rows.at[i];
          line[i] = part.load(pixel(x, row, columns.at[0]) + c) * columns.weight[0] +
                    part.load(pixel(x, row, columns.at[1]) + c) * columns.weight[1];
        }
        part.store(to + c, line[0] * rows.weight[0] + line[1] * rows.weight[1]);
      });
    }
  });
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
