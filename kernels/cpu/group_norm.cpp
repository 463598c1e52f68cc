// Group normalization (Wu & He 2018) with the per-sample scale and shift and the SiLU that follow it in a UNet.
//
// Two passes over a sample: the first takes the sums, between the two they become three numbers a channel, the second
// applies them: v = (x - mean)*multiplier + addend. (One multiplication-addition less would cost digits where the
// variance is small.) Sums are kept for each channel, since vectors run along channels and a group need not be a whole
// number of vectors, and are folded into groups once a chunk.
#include "kernels/cpu/rows.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

// A count's mean and its sum of squared distances from that mean.
struct Moments {
  double mean, m2;
};

struct ForwardScratch {
  Moments* moments;  // {samples, chunks, groups}
  float* affine;     // {samples, 3, c}: mean, multiplier, addend
  float* perThread;  // {threads, 3, c}
  size_t bytes;

  ForwardScratch(const GroupNorm& op, const PixelChunks& chunks, int threads, void* base) {
    ScratchCutter cut(base);
    moments = cut.take<Moments>(chunks.total() * op.groups);
    affine = cut.take<float>(chunks.samples * 3 * op.x.c);
    perThread = cut.take<float>(int64_t(threads) * 3 * op.x.c);
    bytes = cut.bytes();
  }
};

// v = (gamma*(x - mean)*rstd + beta)*(1 + scale?) + shift? of sample n as (x - mean)*multiplier + addend; to {3, c}:
// mean, multiplier, addend. Channels [begin, end) belong to one group.
void writeAffine(const Tensor& gamma, const Tensor& beta, const Tensor& scale, const Tensor& shift, int64_t n,
                 float mean, float rstd, int64_t begin, int64_t end, float* to) {
  const int64_t c = gamma.c;
  for (int64_t i = begin; i < end; ++i) {
    const float factor = scale ? 1.0f + scale.f32()[n * scale.ld + i] : 1.0f;
    to[i] = mean;
    to[c + i] = gamma.f32()[i] * rstd * factor;
    to[2 * c + i] = beta.f32()[i] * factor + (shift ? shift.f32()[n * shift.ld + i] : 0.0f);
  }
}

template <class Part>
DDPM_INLINE vf affineAt(const float* affine, int64_t c, int64_t i, Part part, vf x) {
  return (x - part.load(affine + i)) * part.load(affine + c + i) + part.load(affine + 2 * c + i);
}

// The moments of the pixels [begin, end), group by group. Squares are taken of distances from a channel's mean over the
// first few pixels, so that a large mean cancels before it is squared.
void chunkMoments(const float* x, int64_t ld, int64_t c, int groups, int64_t begin, int64_t end, float* buffer,
                  Moments* moments) {
  float *pivot = buffer, *sums = buffer + c;  // sums: of distances, then of their squares
  const int64_t few = end - begin < kPixelBlock ? end : begin + kPixelBlock;
  sumOverPixels<1>(pivot, c, begin, few, [=](int64_t i, auto part) {
    return [=](int64_t p, vf* terms) DDPM_LAMBDA_INLINE { terms[0] += part.load(x + p * ld + i); };
  });
  const float share = 1.0f / float(few - begin);
  for (int64_t i = 0; i < c; ++i) pivot[i] *= share;
  sumOverPixels<2>(sums, c, begin, end, [=](int64_t i, auto part) {
    const vf center = part.load(pivot + i);
    return [=](int64_t p, vf* terms) DDPM_LAMBDA_INLINE {
      const vf d = part.load(x + p * ld + i) - center;
      terms[0] += d;
      terms[1] += d * d;
    };
  });

  const int64_t size = c / groups;
  const double count = double(end - begin), perCount = 1.0 / count, perSize = 1.0 / double(size);
  for (int g = 0; g < groups; ++g) {
    const int64_t first = g * size;
    double mean = 0, m2 = 0;
    for (int64_t i = first; i < first + size; ++i) mean += pivot[i] + sums[i] * perCount;
    mean *= perSize;
    for (int64_t i = first; i < first + size; ++i) {
      const double d = sums[i] * perCount, fromMean = pivot[i] + d - mean;
      m2 += sums[c + i] - d * sums[i] + count * fromMean * fromMean;
    }
    moments[g] = {mean, m2};
  }
}

// One group's moments over all chunks of a sample.
Moments combine(const Moments* moments, int groups, int64_t size, const PixelChunks& chunks) {
  Moments total = {0, 0};
  for (int64_t i = 0; i < chunks.chunks; ++i) total.mean += moments[i * groups].mean * double(chunks.count(i));
  total.mean /= double(chunks.pixels);
  for (int64_t i = 0; i < chunks.chunks; ++i) {
    const double d = moments[i * groups].mean - total.mean;
    total.m2 += moments[i * groups].m2 + double(chunks.count(i) * size) * d * d;
  }
  return total;
}

}  // namespace

size_t scratch(const CpuDevice& device, const GroupNorm& op) {
  return ForwardScratch(op, PixelChunks(op.x), device.pool.threads(), nullptr).bytes;
}

void run(CpuDevice& device, const GroupNorm& op, void* memory) {
  const PixelChunks chunks(op.x);
  const ForwardScratch s(op, chunks, device.pool.threads(), memory);
  const int64_t c = op.x.c, size = c / op.groups, xLd = op.x.ld, yLd = op.y.ld;

  auto sum = [&](int64_t n, int64_t chunk, int thread) {
    chunkMoments(op.x.f32() + n * chunks.pixels * xLd, xLd, c, op.groups, chunks.begin(chunk), chunks.end(chunk),
                 s.perThread + int64_t(thread) * 3 * c, s.moments + (n * chunks.chunks + chunk) * op.groups);
  };

  auto settle = [&](int64_t n) {
    for (int g = 0; g < op.groups; ++g) {
      const Moments total = combine(s.moments + n * chunks.chunks * op.groups + g, op.groups, size, chunks);
      const double variance = total.m2 / double(chunks.pixels * size);
      const float mean = float(total.mean);
      const float rstd = float(1.0 / __builtin_sqrt((variance < 0 ? 0 : variance) + op.eps));  // keeps NaN
      op.mean.f32()[n * op.mean.ld + g] = mean;
      op.rstd.f32()[n * op.rstd.ld + g] = rstd;
      writeAffine(op.gamma, op.beta, op.scale, op.shift, n, mean, rstd, g * size, (g + 1) * size, s.affine + n * 3 * c);
    }
  };

  auto apply = [&](int64_t n, int64_t chunk) {
    const float* affine = s.affine + n * 3 * c;
    for (int64_t p = chunks.begin(chunk); p < chunks.end(chunk); ++p) {
      const float* x = op.x.f32() + (n * chunks.pixels + p) * xLd;
      float* y = op.y.f32() + (n * chunks.pixels + p) * yLd;
      if (op.silu)
        forChannels(
            c, [=](int64_t i, auto part) { part.store(y + i, silu(affineAt(affine, c, i, part, part.load(x + i)))); });
      else
        forChannels(c,
                    [=](int64_t i, auto part) { part.store(y + i, affineAt(affine, c, i, part, part.load(x + i))); });
    }
  };

  forChunksTwice(device, chunks, sum, settle, apply);
}

// ---- backward -----------------------------------------------------------------------------------------------------
//
// With u = (x - mean)*rstd, v = (gamma*u + beta)*(1 + scale) + shift, y = silu(v), and for each channel A = sum dv, B =
// sum dv*u over the pixels of a sample:
//   dShift = A                 dBeta  += sum over samples (1 + scale)*A
//   dScale = gamma*B + beta*A  dGamma += sum over samples (1 + scale)*B
//   dx = rstd*(w*dv - mean(w*dv) - u*mean(w*dv*u)), w = gamma*(1 + scale), means over the group: of w*A and of w*B.
// The first pass leaves dv in dx, so that SiLU's derivative is computed once.

namespace {

struct BackwardScratch {
  float* sums;      // {samples, chunks, 2, c}: sum dv, sum dv*(x - mean)
  float* affine;    // {samples, 3, c}: mean, multiplier, addend
  float* gradient;  // {samples, 3, c}: dx = [0]*dv + [1]*(x - mean) + [2]
  float* params;    // {samples, 2, c}: the sample's part of dGamma and dBeta
  size_t bytes;

  BackwardScratch(const GroupNormBackward& op, const PixelChunks& chunks, void* base) {
    ScratchCutter cut(base);
    sums = cut.take<float>(chunks.total() * 2 * op.x.c);
    affine = cut.take<float>(chunks.samples * 3 * op.x.c);
    gradient = cut.take<float>(chunks.samples * 3 * op.x.c);
    params = cut.take<float>(chunks.samples * 2 * op.x.c);
    bytes = cut.bytes();
  }
};

// dv into dx, and the chunk's sums.
template <bool Silu>
void chunkGradient(const GroupNormBackward& op, const PixelChunks& chunks, int64_t n, int64_t chunk,
                   const float* affine, float* sums) {
  const int64_t c = op.x.c, xLd = op.x.ld, dyLd = op.dy.ld, dxLd = op.dx.ld;
  const float *x = op.x.f32() + n * chunks.pixels * xLd, *dy = op.dy.f32() + n * chunks.pixels * dyLd;
  float* dx = op.dx.f32() + n * chunks.pixels * dxLd;
  sumOverPixels<2>(sums, c, chunks.begin(chunk), chunks.end(chunk), [=](int64_t i, auto part) {
    const vf mean = part.load(affine + i), multiplier = part.load(affine + c + i),
             addend = part.load(affine + 2 * c + i);
    return [=](int64_t p, vf* terms) DDPM_LAMBDA_INLINE {
      const vf centered = part.load(x + p * xLd + i) - mean;
      vf dv = part.load(dy + p * dyLd + i);
      if constexpr (Silu) dv = dv * siluSlope(centered * multiplier + addend);
      terms[0] += dv;
      terms[1] += dv * centered;
      part.store(dx + p * dxLd + i, dv);
    };
  });
}

}  // namespace

size_t scratch(const CpuDevice&, const GroupNormBackward& op) {
  return BackwardScratch(op, PixelChunks(op.x), nullptr).bytes;
}

void run(CpuDevice& device, const GroupNormBackward& op, void* memory) {
  const PixelChunks chunks(op.x);
  const BackwardScratch s(op, chunks, memory);
  const int64_t c = op.x.c, size = c / op.groups, xLd = op.x.ld, dxLd = op.dx.ld;
  const float *gamma = op.gamma.f32(), *beta = op.beta.f32();

  device.pool.parallelFor(chunks.samples, [&](int64_t n, int) {
    for (int g = 0; g < op.groups; ++g)
      writeAffine(op.gamma, op.beta, op.scale, op.shift, n, op.mean.f32()[n * op.mean.ld + g],
                  op.rstd.f32()[n * op.rstd.ld + g], g * size, (g + 1) * size, s.affine + n * 3 * c);
  });

  auto sum = [&](int64_t n, int64_t chunk, int) {
    const float* affine = s.affine + n * 3 * c;
    float* sums = s.sums + (n * chunks.chunks + chunk) * 2 * c;
    if (op.silu)
      chunkGradient<true>(op, chunks, n, chunk, affine, sums);
    else
      chunkGradient<false>(op, chunks, n, chunk, affine, sums);
  };

  auto settle = [&](int64_t n) {
    auto factor = [&](int64_t i) { return op.scale ? 1.0 + op.scale.f32()[n * op.scale.ld + i] : 1.0; };
    float *total = s.params + n * 2 * c, *gradient = s.gradient + n * 3 * c;
    const float* sums = s.sums + n * chunks.chunks * 2 * c;
    for (int g = 0; g < op.groups; ++g) {
      const double rstd = op.rstd.f32()[n * op.rstd.ld + g];
      double meanDv = 0, meanDvU = 0;
      for (int64_t i = g * size; i < (g + 1) * size; ++i) {
        double a = 0, b = 0;
        for (int64_t chunk = 0; chunk < chunks.chunks; ++chunk) {
          a += sums[chunk * 2 * c + i];
          b += sums[chunk * 2 * c + c + i];
        }
        b *= rstd;
        meanDv += gamma[i] * factor(i) * a;
        meanDvU += gamma[i] * factor(i) * b;
        total[i] = float(factor(i) * b);
        total[c + i] = float(factor(i) * a);
        if (op.dScale) op.dScale.f32()[n * op.dScale.ld + i] = float(gamma[i] * b + beta[i] * a);
        if (op.dShift) op.dShift.f32()[n * op.dShift.ld + i] = float(a);
      }
      const double count = double(chunks.pixels * size);
      meanDv /= count;
      meanDvU /= count;
      for (int64_t i = g * size; i < (g + 1) * size; ++i) {
        gradient[i] = float(rstd * gamma[i] * factor(i));
        gradient[c + i] = float(-rstd * rstd * meanDvU);
        gradient[2 * c + i] = float(-rstd * meanDv);
      }
    }
  };

  auto apply = [&](int64_t n, int64_t chunk) {
    const float *mean = s.affine + n * 3 * c, *gradient = s.gradient + n * 3 * c;
    for (int64_t p = chunks.begin(chunk); p < chunks.end(chunk); ++p) {
      const float* x = op.x.f32() + (n * chunks.pixels + p) * xLd;
      float* dx = op.dx.f32() + (n * chunks.pixels + p) * dxLd;
      forChannels(c, [=](int64_t i, auto part) {
        const vf centered = part.load(x + i) - part.load(mean + i);
        const vf constant = centered * part.load(gradient + c + i) + part.load(gradient + 2 * c + i);
        part.store(dx + i, part.load(dx + i) * part.load(gradient + i) + constant);
      });
    }
  };

  forChunksTwice(device, chunks, sum, settle, apply);

  addParts(device, s.params, chunks.samples, 2 * c, c, op.dGamma.f32());
  addParts(device, s.params + c, chunks.samples, 2 * c, c, op.dBeta.f32());
}

}  // namespace ddpm::cpu::DDPM_ISA
