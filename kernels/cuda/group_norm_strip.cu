// Group normalization in one pass over memory: a block keeps a strip of a sample, all pixels of a few whole groups, in
// shared memory. The formulas stand in group_norm.cu.
//
// A thread has one vector of channels of every so many pixels and reads back only what it has stored itself: threads
// wait for each other for the sums over the strip only.
#include "kernels/cuda/group_norm.cuh"

namespace ddpm::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr size_t kMaxShared = 98 << 10;  // of the 99 KiB that every GPU grants a block
constexpr int kSums = 2;                 // that are taken at once

struct Strip {
  int span = 0;                 // channels; 0: the groups do not fit
  int width = 0;                // of a thread's vector
  int threads = 0;              // of a block
  int area = 0, size = 0;       // pixels; channels of a group
  size_t maps = 0, shared = 0;  // bytes of the pixels, and with the sums that lie behind them
};

// Channels so that what is read and written of a pixel fills sectors of 32 bytes, if that fits. `kept` begins with x.
Strip stripOf(std::initializer_list<const Tensor*> kept, const Tensor& written, int width, int groups) {
  const Tensor& x = **kept.begin();
  const int area = pixels(x), size = x.c / groups;
  size_t bytes = 0, narrowest = sizeOf(written.dtype);
  for (const Tensor* t : kept) {
    bytes += sizeOf(t->dtype);
    narrowest = std::min(narrowest, sizeOf(t->dtype));
  }
  Strip best;
  for (int vectors = 1; width > 1 && vectors <= 32; vectors *= 2) {
    const int span = vectors * width;
    if (span % size || x.c % span) continue;
    const int threads = int(std::min<int64_t>(ceilDiv(int64_t(area) * vectors, 32) * 32, kMaxThreads));
    const size_t maps = size_t(area) * size_t(span) * bytes;
    const size_t sums = (size_t(threads / 32 + 1) * size_t(span) + size_t(span / size)) * kSums * sizeof(float);
    if (maps + sums > kMaxShared) break;
    best = {span, width, threads, area, size, maps, maps + sums};
    if (size_t(span) * narrowest >= 32) break;
  }
  return best;
}

// A feature map's pixels in shared memory, as wide as they are outside. Of a vector of eight floats the halves lie
// apart, so that neighbouring threads reach neighbouring words.
struct Kept {
  Shared<float> wide;
  Shared<uint32_t> narrow;
  int count;
  DType dtype;

  __device__ Kept(const FeatureMap& map, size_t offset, const Strip& strip)
      : count(strip.area * strip.span), dtype(map.dtype) {
    if (dtype == DType::f32)
      wide = dynamicShared<float>(offset, count);
    else
      narrow = dynamicShared<uint32_t>(offset, count / 2);
  }
  // Of element k of vector i.
  template <int V>
  __device__ int word(int i, int k) const {
    return k * (count / V) + i * 4;
  }
  template <int V>
  __device__ void put(int i, const Vec<float, V>& values) const {
    if (dtype == DType::f32) {
      for (int k = 0; k < V; k += 4)
        store<4>(wide, word<V>(i, k), Vec<float, 4>{{values.v[k], values.v[k + 1], values.v[k + 2], values.v[k + 3]}});
    } else {
      Vec<uint32_t, V / 2> words;
      for (int k = 0; k < V / 2; ++k) {
        const float low = values.v[2 * k], high = values.v[2 * k + 1];
        words.v[k] = dtype == DType::f16 ? pack<Half>(low, high) : pack<Bfloat16>(low, high);
      }
      store<V / 2>(narrow, i * (V / 2), words);
    }
  }
  template <int V>
  __device__ Vec<float, V> get(int i) const {
    Vec<float, V> values;
    if (dtype == DType::f32) {
      for (int k = 0; k < V; k += 4) {
        const Vec<float, 4> part = load<4>(wide, word<V>(i, k));
        for (int j = 0; j < 4; ++j) values.v[k + j] = part.v[j];
      }
    } else {
      const Vec<uint32_t, V / 2> words = load<V / 2>(narrow, i * (V / 2));
      for (int k = 0; k < V / 2; ++k) {
        const Vec<float, 2> pair = dtype == DType::f16 ? unpack<Half>(words.v[k]) : unpack<Bfloat16>(words.v[k]);
        values.v[2 * k] = pair.v[0];
        values.v[2 * k + 1] = pair.v[1];
      }
    }
    return values;
  }
};

// The thread's vector of channels and its pixels: `start`, start + step, ...
template <int V>
struct Place {
  int n, first, vectors, vector, start, step;
  __device__ explicit Place(const Strip& strip)
      : n(blockIdx.y),
        first(blockIdx.x * strip.span),
        vectors(strip.span / V),
        vector(threadIdx.x % vectors),
        start(threadIdx.x / vectors),
        step(blockDim.x / vectors) {}
  __device__ int channel(int i) const { return first + vector * V + i; }
  __device__ int group(int i, int size) const { return (vector * V + i) / size; }
};

// Behind the pixels: of each warp and of all of them the sums by channel, then two numbers a group.
struct Sums {
  Shared<float> warps, channels, groups;
  int span;

  __device__ explicit Sums(const Strip& strip) : span(strip.span) {
    const int count = int(blockDim.x / 32) * kSums * span;
    warps = dynamicShared<float>(strip.maps, count + kSums * (span + span / strip.size));
    channels = warps + count;
    groups = channels + kSums * span;
  }
  // channels[k * span + c] becomes the sum over the block, and afterwards everyone can read it.
  template <int V, int K>
  __device__ void add(const Place<V>& at, const Vec<float, V> (&mine)[K]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int k = 0; k < K; ++k)
      for (int i = 0; i < V; ++i) {
        float sum = mine[k].v[i];
        for (int bits = 16; bits >= at.vectors; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
        if (lane < at.vectors) warps[(warp * K + k) * span + lane * V + i] = sum;
      }
    __syncthreads();
    for (int i = threadIdx.x; i < K * span; i += blockDim.x) {
      float sum = 0;
      for (int w = 0; w < int(blockDim.x / 32); ++w) sum += warps[w * K * span + i];
      channels[i] = sum;
    }
    __syncthreads();
  }
};

template <int V>
__device__ __forceinline__ Vec<float, V> zeros() {
  Vec<float, V> values;
  for (int i = 0; i < V; ++i) values.v[i] = 0;
  return values;
}

template <int V, bool fuseSilu>
__global__ void __launch_bounds__(kMaxThreads)
    normalizeStripKernel(FeatureMap x, FeatureMap y, Affine affine, Rows<float> mean, Rows<float> rstd, Strip strip,
                         float eps) {
  const Place<V> at(strip);
  const Kept pixels(x, 0, strip);
  const Sums sums(strip);
  const int64_t row = int64_t(at.n) * strip.area;
  const int groups = strip.span / strip.size, firstGroup = at.first / strip.size;
  const float count = float(strip.area) * float(strip.size);
  // groups[which * groups + g] of the sums over the channels of each group.
  const auto overGroups = [&](int which, auto f) {
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
      float sum = 0;
      for (int c = g * strip.size; c < (g + 1) * strip.size; ++c) sum += sums.channels[c];
      sums.groups[which * groups + g] = f(g, sum / count);
    }
    __syncthreads();
  };

  Vec<float, V> sum[1] = {zeros<V>()};
  for (int p = at.start; p < strip.area; p += at.step) {
    const auto value = load<V>(x, row + p, at.channel(0));
    pixels.put(p * at.vectors + at.vector, value);
    for (int i = 0; i < V; ++i) sum[0].v[i] += value.v[i];
  }
  sums.add(at, sum);
  overGroups(0, [&](int g, float mu) { return element(mean, at.n, firstGroup + g) = mu; });

  Vec<float, V> mu, a, b;
  for (int i = 0; i < V; ++i) mu.v[i] = sums.groups[at.group(i, strip.size)];
  sum[0] = zeros<V>();
  for (int p = at.start; p < strip.area; p += at.step) {
    const auto value = pixels.get<V>(p * at.vectors + at.vector);
    for (int i = 0; i < V; ++i) sum[0].v[i] += (value.v[i] - mu.v[i]) * (value.v[i] - mu.v[i]);
  }
  sums.add(at, sum);
  overGroups(1,
             [&](int g, float variance) { return element(rstd, at.n, firstGroup + g) = 1.0f / sqrtf(variance + eps); });

  for (int i = 0; i < V; ++i) {
    const int c = at.channel(i);
    const float r = sums.groups[groups + at.group(i, strip.size)];
    a.v[i] = r * element(affine.gamma, 0, c) * affine.onePlusScale(at.n, c);
    b.v[i] = affine.offset(at.n, c);
  }
  for (int p = at.start; p < strip.area; p += at.step) {
    auto value = pixels.get<V>(p * at.vectors + at.vector);
    for (int i = 0; i < V; ++i) {
      const float v = (value.v[i] - mu.v[i]) * a.v[i] + b.v[i];
      value.v[i] = fuseSilu ? silu(v) : v;
    }
    store<V>(y, row + p, at.channel(0), value);
  }
}

struct Gradients {
  FeatureMap x, dy, dx;
  Affine affine;
  Rows<const float> mean, rstd;
  Rows<float> dScale, dShift;
  Global<float> parameterSums;
  int channels;
};

template <int V, bool fuseSilu>
__global__ void __launch_bounds__(kMaxThreads) differentiateStripKernel(Gradients op, Strip strip) {
  const Place<V> at(strip);
  const Kept pixels(op.x, 0, strip);
  const Kept gradients(op.dy, size_t(strip.area) * size_t(strip.span) * (op.x.dtype == DType::f32 ? 4 : 2), strip);
  const Sums sums(strip);
  const int64_t row = int64_t(at.n) * strip.area;
  const int groups = strip.span / strip.size, firstGroup = at.first / strip.size;

  Vec<float, V> mu, a, b, r;
  for (int i = 0; i < V; ++i) {
    const int c = at.channel(i), g = firstGroup + at.group(i, strip.size);
    mu.v[i] = element(op.mean, at.n, g);
    r.v[i] = element(op.rstd, at.n, g);
    a.v[i] = r.v[i] * element(op.affine.gamma, 0, c) * op.affine.onePlusScale(at.n, c);
    b.v[i] = op.affine.offset(at.n, c);
  }
  const auto before = [&](float dy, float d, int i) {
    return fuseSilu ? dy * siluDerivative(d * a.v[i] + b.v[i]) : dy;
  };

  Vec<float, V> sum[2] = {zeros<V>(), zeros<V>()};
  for (int p = at.start; p < strip.area; p += at.step) {
    const auto value = load<V>(op.x, row + p, at.channel(0)), gradient = load<V>(op.dy, row + p, at.channel(0));
    pixels.put(p * at.vectors + at.vector, value);
    gradients.put(p * at.vectors + at.vector, gradient);
    for (int i = 0; i < V; ++i) {
      const float d = value.v[i] - mu.v[i], da = before(gradient.v[i], d, i);
      sum[0].v[i] += da;
      sum[1].v[i] += da * (d * r.v[i]);
    }
  }
  sums.add(at, sum);

  for (int i = threadIdx.x; i < strip.span; i += blockDim.x) {
    const int c = at.first + i;
    const float s1 = sums.channels[i], s2 = sums.channels[strip.span + i];
    const float scale = op.affine.onePlusScale(at.n, c);
    if (op.dScale)
      element(op.dScale, at.n, c) = element(op.affine.gamma, 0, c) * s2 + element(op.affine.beta, 0, c) * s1;
    if (op.dShift) element(op.dShift, at.n, c) = s1;
    op.parameterSums[int64_t(at.n) * 2 * op.channels + c] = scale * s2;
    op.parameterSums[(int64_t(at.n) * 2 + 1) * op.channels + c] = scale * s1;
  }
  const float count = float(strip.area) * float(strip.size);
  for (int g = threadIdx.x; g < groups; g += blockDim.x) {
    float sum1 = 0, sum2 = 0;
    for (int i = g * strip.size; i < (g + 1) * strip.size; ++i) {
      const float weight = element(op.affine.gamma, 0, at.first + i) * op.affine.onePlusScale(at.n, at.first + i);
      sum1 += weight * sums.channels[i];
      sum2 += weight * sums.channels[strip.span + i];
    }
    const float rg = element(op.rstd, at.n, firstGroup + g);
    sums.groups[g] = rg * sum1 / count;
    sums.groups[groups + g] = rg * rg * sum2 / count;
  }
  __syncthreads();

  Vec<float, V> mean1, mean2;
  for (int i = 0; i < V; ++i) {
    mean1.v[i] = sums.groups[at.group(i, strip.size)];
    mean2.v[i] = sums.groups[groups + at.group(i, strip.size)];
  }
  for (int p = at.start; p < strip.area; p += at.step) {
    const auto value = pixels.get<V>(p * at.vectors + at.vector);
    auto gradient = gradients.get<V>(p * at.vectors + at.vector);
    for (int i = 0; i < V; ++i) {
      const float d = value.v[i] - mu.v[i];
      gradient.v[i] = a.v[i] * before(gradient.v[i], d, i) - mean1.v[i] - d * mean2.v[i];
    }
    store<V>(op.dx, row + p, at.channel(0), gradient);
  }
}

// f.run<V, silu>() for the vectors of a strip.
template <class F>
void choose(const Strip& strip, int32_t silu, const F& f) {
  if (strip.width == 8)
    silu ? f.template operator()<8, true>() : f.template operator()<8, false>();
  else
    silu ? f.template operator()<4, true>() : f.template operator()<4, false>();
}

dim3 gridOf(const Strip& strip, const Tensor& x) { return {unsigned(x.c / strip.span), unsigned(x.n)}; }

}  // namespace

bool normalizeStrips(CudaDevice& device, const GroupNorm& op) {
  const Strip strip = stripOf({&op.x}, op.y, bySample({&op.y, &op.x}).width, op.groups);
  if (strip.span == 0) return false;
  choose(strip, op.silu, [&]<int V, bool silu>() {
    launch<normalizeStripKernel<V, silu>>(gridOf(strip, op.x), unsigned(strip.threads), strip.shared, device.stream(),
                                          featureMap(op.x), featureMap(op.y), affineOf(op), out(op.mean), out(op.rstd),
                                          strip, op.eps);
  });
  return true;
}

bool differentiateStrips(CudaDevice& device, const GroupNormBackward& op, Global<float> parameterSums) {
  const Strip strip = stripOf({&op.x, &op.dy}, op.dx, bySample({&op.dx, &op.x, &op.dy}).width, op.groups);
  if (strip.span == 0) return false;
  const Gradients gradients = {featureMap(op.x), featureMap(op.dy), featureMap(op.dx), affineOf(op),  in(op.mean),
                               in(op.rstd),      out(op.dScale),    out(op.dShift),    parameterSums, op.x.c};
  choose(strip, op.silu, [&]<int V, bool silu>() {
    launch<differentiateStripKernel<V, silu>>(gridOf(strip, op.x), unsigned(strip.threads), strip.shared,
                                              device.stream(), gradients, strip);
  });
  return true;
}

}  // namespace ddpm::cuda
