// Loops over pixels and their channels, shared by the memory-bound ops. Vectors run along the channels (NHWC); samples
// are cut into chunks of pixels whose size depends on the shape alone, so that a sum is always taken in the same order:
// it depends neither on the number of threads nor on the other samples of the batch.
#pragma once
#include "kernels/cpu/device.h"
#include "kernels/cpu/simd.h"

namespace ddpm::cpu::DDPM_ISA {

// Lambdas of inner loops must become part of them.
#define DDPM_LAMBDA_INLINE __attribute__((always_inline))

// ---- one row ------------------------------------------------------------------------------------------------------

// How a vector of channels is read and written: all of it, or at the end of a row only its first n elements. `keep`
// makes the others 0.
struct WholeVector {
  DDPM_INLINE vf load(const float* p) const { return DDPM_ISA::load(p); }
  DDPM_INLINE void store(float* p, vf v) const { DDPM_ISA::store(p, v); }
  DDPM_INLINE vf keep(vf v) const { return v; }
};
struct PartVector {
  int n;
  DDPM_INLINE vf load(const float* p) const { return loadPart(p, n); }
  DDPM_INLINE void store(float* p, vf v) const { storePart(p, v, n); }
  DDPM_INLINE vf keep(vf v) const { return select(iota() < broadcastInt(n), v, zero()); }
};

// body(i, part) for i = 0, kWidth, 2 kWidth ... below c; `part` loads and stores the vector at i.
template <class Body>
DDPM_INLINE void forChannels(int64_t c, const Body& body) {
  int64_t i = 0;
  for (; i + kWidth <= c; i += kWidth) body(i, WholeVector{});
  if (i < c) body(i, PartVector{int(c - i)});
}

// ---- all rows of tensors of one shape -----------------------------------------------------------------------------

constexpr int64_t kElementsPerTask = 16384;  // 64 KiB a tensor: some microseconds, and it stays in L2

// body(p, n): n consecutive elements of each tensor, p[i] those of the i-th. Dense tensors are cut without regard to
// rows.
template <int Count, class Body>
void forRows(CpuDevice& device, const Tensor (&tensors)[Count], const Body& body) {
  bool dense = true;
  for (const Tensor& t : tensors) dense = dense && t.dense();
  const int64_t rows = tensors[0].rows(), c = tensors[0].c;
  if (dense) {
    device.pool.parallelRange(rows * c, kElementsPerTask, [&](int64_t begin, int64_t end) {
      float* p[Count];
      for (int i = 0; i < Count; ++i) p[i] = tensors[i].f32() + begin;
      body(p, end - begin);
    });
    return;
  }
  const int64_t grain = c < kElementsPerTask ? kElementsPerTask / c : 1;
  device.pool.parallelRange(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* p[Count];
      for (int i = 0; i < Count; ++i) p[i] = tensors[i].f32() + row * tensors[i].ld;
      body(p, c);
    }
  });
}

// ---- chunks of a sample's pixels ----------------------------------------------------------------------------------

constexpr int kPixelBlock = 8;  // pixels that are summed in registers before they are added to the sums in memory

struct PixelChunks {
  int64_t samples, pixels, perChunk, chunks;  // perChunk pixels a chunk (fewer in the last), `chunks` a sample

  explicit PixelChunks(const Tensor& x) : samples(x.n), pixels(int64_t(x.h) * x.w) {
    const int64_t blocks = kElementsPerTask / (int64_t(x.c > 0 ? x.c : 1) * kPixelBlock);
    perChunk = (blocks > 1 ? blocks : 1) * kPixelBlock;
    chunks = (pixels + perChunk - 1) / perChunk;
  }
  int64_t begin(int64_t chunk) const { return chunk * perChunk; }
  int64_t end(int64_t chunk) const { return chunk + 1 < chunks ? (chunk + 1) * perChunk : pixels; }
  int64_t count(int64_t chunk) const { return end(chunk) - begin(chunk); }
  int64_t total() const { return samples * chunks; }
};

// body(n, chunk, thread) for every chunk of every sample.
template <class Body>
void forChunks(CpuDevice& device, const PixelChunks& c, const Body& body) {
  device.pool.parallelFor(c.total(), [&](int64_t task, int thread) { body(task / c.chunks, task % c.chunks, thread); });
}

// A pass over each sample that needs the outcome of a pass before it: first(n, chunk, thread) for all chunks of a
// sample, then between(n), then last(n, chunk). One thread takes a sample through all of it where there are samples
// enough, since the sample is then still in its cache; otherwise threads share the samples. The results are the same.
template <class First, class Between, class Last>
void forChunksTwice(CpuDevice& device, const PixelChunks& c, const First& first, const Between& between,
                    const Last& last) {
  const int64_t threads = device.pool.threads();
  if (c.samples % threads == 0 || c.samples >= 8 * threads) {
    device.pool.parallelFor(c.samples, [&](int64_t n, int thread) {
      for (int64_t chunk = 0; chunk < c.chunks; ++chunk) first(n, chunk, thread);
      between(n);
      for (int64_t chunk = 0; chunk < c.chunks; ++chunk) last(n, chunk);
    });
    return;
  }
  forChunks(device, c, first);
  device.pool.parallelFor(c.samples, [&](int64_t n, int) { between(n); });
  forChunks(device, c, [&](int64_t n, int64_t chunk, int) { last(n, chunk); });
}

// sums[j*c + i] = sum over the pixels [begin, end) of term j of channel i. `each(i, part)` returns the function that
// adds the terms of one pixel at that vector of channels: add(pixel, vf terms[Terms]); what it needs of the channels is
// loaded once for kPixelBlock pixels.
template <int Terms, class Each>
DDPM_INLINE void sumOverPixels(float* sums, int64_t c, int64_t begin, int64_t end, const Each& each) {
  for (int64_t i = 0; i < Terms * c; ++i) sums[i] = 0.0f;
  for (int64_t block = begin; block < end; block += kPixelBlock) {
    const int count = end - block < kPixelBlock ? int(end - block) : kPixelBlock;
    forChannels(c, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE {
      const auto add = each(i, part);
      vf terms[Terms];
      for (int j = 0; j < Terms; ++j) terms[j] = zero();
      if (count == kPixelBlock) {
        for (int p = 0; p < kPixelBlock; ++p) add(block + p, terms);
      } else {
        for (int p = 0; p < count; ++p) add(block + p, terms);
      }
      for (int j = 0; j < Terms; ++j) part.store(sums + j * c + i, part.load(sums + j * c + i) + terms[j]);
    });
  }
}

// total[i] += parts[i] + parts[stride + i] + ... , `count` parts in order: a parameter's gradient from those of the
// samples.
inline void addParts(CpuDevice& device, const float* parts, int64_t count, int64_t stride, int64_t c, float* total) {
  device.pool.parallelRange(c, 16 * kWidth, [&](int64_t begin, int64_t end) {
    forChannels(end - begin, [&](int64_t j, auto lanes) {
      const int64_t i = begin + j;
      vf sum = zero();
      for (int64_t part = 0; part < count; ++part) sum += lanes.load(parts + part * stride + i);
      lanes.store(total + i, lanes.load(total + i) + sum);
    });
  });
}

// ---- scratch memory -----------------------------------------------------------------------------------------------

// Cuts scratch memory into arrays, each on its own cache line. With base == nullptr it only counts.
class ScratchCutter {
 public:
  explicit ScratchCutter(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}
  template <class T>
  T* take(int64_t count) {
    const uintptr_t at = base_ + bytes_;
    bytes_ += (size_t(count) * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return reinterpret_cast<T*>(at);
  }
  size_t bytes() const { return bytes_; }

 private:
  uintptr_t base_;
  size_t bytes_ = 0;
};

}  // namespace ddpm::cpu::DDPM_ISA
