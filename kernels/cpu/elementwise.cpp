// Addition, per-sample affine maps, copies between views.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

void run(CpuDevice& device, const Add& op, void*) {
  forRows(device, {op.a, op.b, op.y}, [](float* const* p, int64_t n) {
    const float *a = p[0], *b = p[1];
    float* y = p[2];
    forChannels(n, [=](int64_t i, auto part) { part.store(y + i, part.load(a + i) + part.load(b + i)); });
  });
}

void run(CpuDevice& device, const Copy& op, void*) {
  if (op.accumulate) return run(device, Add{op.x, op.y, op.y}, nullptr);
  // Copies may carry any 32-bit type (labels, too): bits are moved, no arithmetic is done.
  forRows(device, {op.x, op.y}, [](float* const* p, int64_t n) { memcpy(p[1], p[0], size_t(n) * sizeof(float)); });
}

void run(CpuDevice& device, const Fill& op, void*) {
  const vf value = broadcast(op.value);
  forRows(device, {op.y}, [value](float* const* p, int64_t n) {
    float* y = p[0];
    forChannels(n, [=](int64_t i, auto part) { part.store(y + i, value); });
  });
}

// ---- one vector a sample ------------------------------------------------------------------------------------------

// body(n, x, y) for every pixel's row of channels.
template <class Body>
static void forPixels(CpuDevice& device, const Tensor& x, const Tensor& y, const Body& body) {
  const PixelChunks chunks(x);
  forChunks(device, chunks, [&](int64_t n, int64_t chunk, int) {
    for (int64_t p = chunks.begin(chunk); p < chunks.end(chunk); ++p) {
      const int64_t row = n * chunks.pixels + p;
      body(n, x.f32() + row * x.ld, y.f32() + row * y.ld);
    }
  });
}

void run(CpuDevice& device, const AddSample& op, void*) {
  forPixels(device, op.x, op.y, [&](int64_t n, const float* x, float* y) {
    const float* e = op.e.f32() + n * op.e.ld;
    forChannels(op.x.c, [=](int64_t i, auto part) { part.store(y + i, part.load(x + i) + part.load(e + i)); });
  });
}

void run(CpuDevice& device, const DivSample& op, void*) {
  forPixels(device, op.x, op.y, [&](int64_t n, const float* x, float* y) {
    const int64_t at = op.d.n == 1 ? 0 : n * op.d.ld;
    const vf d = broadcast(op.d.dtype == DType::i32 ? float(op.d.i32()[at]) : op.d.f32()[at]);
    forChannels(op.x.c, [=](int64_t i, auto part) { part.store(y + i, part.load(x + i) / d); });
  });
}

void run(CpuDevice& device, const ScaleShift& op, void*) {
  const int64_t c = op.x.c;
  forPixels(device, op.x, op.y, [&](int64_t n, const float* x, float* y) {
    const float* e = op.e.f32() + n * op.e.ld;
    forChannels(c, [=](int64_t i, auto part) {
      part.store(y + i, part.load(x + i) * (part.load(e + i) + 1.0f) + part.load(e + c + i));
    });
  });
}

// ---- sums over pixels ---------------------------------------------------------------------------------------------

// y[n, i] = the sum of the chunks' sums, in order; `width` numbers a chunk.
static void addChunks(CpuDevice& device, const PixelChunks& chunks, const float* sums, int64_t width, const Tensor& y) {
  device.pool.parallelFor(chunks.samples, [&](int64_t n, int) {
    const float* first = sums + n * chunks.chunks * width;
    float* out = y.f32() + n * y.ld;
    forChannels(width, [&](int64_t i, auto part) {
      vf total = zero();
      for (int64_t chunk = 0; chunk < chunks.chunks; ++chunk) total += part.load(first + chunk * width + i);
      part.store(out + i, total);
    });
  });
}

size_t scratch(const CpuDevice&, const SumPixels& op) {
  return size_t(PixelChunks(op.x).total()) * op.x.c * sizeof(float);
}

void run(CpuDevice& device, const SumPixels& op, void* memory) {
  const PixelChunks chunks(op.x);
  const int64_t c = op.x.c, ld = op.x.ld;
  float* sums = static_cast<float*>(memory);
  forChunks(device, chunks, [&](int64_t n, int64_t chunk, int) {
    const float* x = op.x.f32() + n * chunks.pixels * ld;
    sumOverPixels<1>(
        sums + (n * chunks.chunks + chunk) * c, c, chunks.begin(chunk), chunks.end(chunk),
        [=](int64_t i, auto part) { return [=](int64_t p, vf* terms) { terms[0] += part.load(x + p * ld + i); }; });
  });
  addChunks(device, chunks, sums, c, op.y);
}

size_t scratch(const CpuDevice&, const ScaleShiftBackward& op) {
  return size_t(PixelChunks(op.x).total()) * 2 * op.x.c * sizeof(float);
}

// dx = dy*(1 + e[:C]); de[:C] = sum dy*x; de[C:] = sum dy
void run(CpuDevice& device, const ScaleShiftBackward& op, void* memory) {
  const PixelChunks chunks(op.x);
  const int64_t c = op.x.c, xLd = op.x.ld, dyLd = op.dy.ld, dxLd = op.dx.ld;
  float* sums = static_cast<float*>(memory);
  forChunks(device, chunks, [&](int64_t n, int64_t chunk, int) {
    const float* x = op.x.f32() + n * chunks.pixels * xLd;
    const float* dy = op.dy.f32() + n * chunks.pixels * dyLd;
    const float* e = op.e.f32() + n * op.e.ld;
    float* dx = op.dx.f32() + n * chunks.pixels * dxLd;
    sumOverPixels<2>(sums + (n * chunks.chunks + chunk) * 2 * c, c, chunks.begin(chunk), chunks.end(chunk),
                     [=](int64_t i, auto part) {
                       const vf scale = part.load(e + i) + 1.0f;
                       return [=](int64_t p, vf* terms) {
                         const vf g = part.load(dy + p * dyLd + i);
                         terms[0] += g * part.load(x + p * xLd + i);
                         terms[1] += g;
                         part.store(dx + p * dxLd + i, g * scale);
                       };
                     });
  });
  addChunks(device, chunks, sums, 2 * c, op.de);
}

}  // namespace ddpm::cpu::DDPM_ISA
