// Dropout (Srivastava et al. 2014). Element e of the dense NHWC order is kept where word e%4 of the Philox block
// {e/4, step, layer, dropout} maps to a uniform number of at least p.
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {
namespace {

struct DropElements {
  static constexpr bool kMixed = true;
  FeatureMap x, y;
  Rows<const int32_t> rng;
  int channels;
  float p, scale;
  uint32_t layer;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const int64_t e = row * channels + c;  // a multiple of V; a long row is row 0
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; i += 4) {
      const Philox4 words = philox4x32(uint32_t(rng.data[0]), uint32_t(rng.data[1]), uint32_t((e + i) / 4),
                                       uint32_t(rng.data[2]), layer, uint32_t(Purpose::dropout));
      for (int k = 0; k < (V < 4 ? V : 4); ++k) {
        const uint32_t word = V == 1 ? pick(words, int(e % 4)) : words.v[k];
        value.v[i + k] = uniform01(word) >= p ? value.v[i + k] * scale : 0.0f;
      }
    }
    store<V>(y, row, c, value);
  }
  // Not words.v[i]: an array with an index that is not constant lives in local memory.
  static __device__ uint32_t pick(const Philox4& words, int i) {
    return i < 2 ? (i == 0 ? words.v[0] : words.v[1]) : (i == 2 ? words.v[2] : words.v[3]);
  }
};

}  // namespace

void run(CudaDevice& device, const Dropout& op, void*) {
  const float scale = 1.0f / (1.0f - op.p);
  pointwise(device, flat({&op.y, &op.x}),
            DropElements{featureMap(op.x), featureMap(op.y), indices(op.rng), op.y.c, op.p, scale, uint32_t(op.layer)});
}

}  // namespace ddpm::cuda
