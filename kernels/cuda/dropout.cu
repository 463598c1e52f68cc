// Dropout (Srivastava et al. 2014). Element e of the dense NHWC order is kept where word e%4 of the Philox block
// {e/4, step, layer, dropout} maps to a uniform number of at least p.
#include "kernels/cuda/tensor.cuh"

namespace ddpm::cuda {
namespace {

struct DropElements {
  Rows<const float> x;
  Rows<const int32_t> rng;
  Rows<float> y;
  int channels;
  float p, scale;
  uint32_t layer;
  template <int V>
  __device__ void run(int, int64_t row, int64_t c) const {
    const int64_t e = row * channels + c;  // a multiple of 4 where V is 4; a long row is row 0
    const Philox4 words = philox4x32(uint32_t(rng.data[0]), uint32_t(rng.data[1]), uint32_t(e / 4),
                                     uint32_t(rng.data[2]), layer, uint32_t(Purpose::dropout));
    auto value = load<V>(x, row, c);
    for (int i = 0; i < V; ++i) {
      const uint32_t word = V == 4 ? words.v[i] : pick(words, int(e % 4));
      value.v[i] = uniform01(word) >= p ? value.v[i] * scale : 0.0f;
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
            DropElements{in(op.x), indices(op.rng), out(op.y), op.y.c, op.p, scale, uint32_t(op.layer)});
}

}  // namespace ddpm::cuda
