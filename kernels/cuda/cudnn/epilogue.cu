// The epilogue of a convolution that cuDNN computed without one.
#include "kernels/cuda/cudnn/epilogue.h"
#include "kernels/cuda/reduce.cuh"

namespace ddpm::cuda::cudnn {
namespace {

struct AddUp {
  static constexpr bool kMixed = true;
  FeatureMap convolution, bias, sampleBias, residual, y;
  template <int V>
  __device__ void run(int n, int64_t row, int64_t c) const {
    Vec<float, V> sum = load<V>(convolution, row, c);
    if (bias) add(sum, load<V>(bias, 0, c));
    if (sampleBias) add(sum, load<V>(sampleBias, n, c));
    if (residual) add(sum, load<V>(residual, row, c));
    store<V>(y, row, c, sum);
  }
  template <int V>
  __device__ static void add(Vec<float, V>& sum, const Vec<float, V>& x) {
    for (int i = 0; i < V; ++i) sum.v[i] += x.v[i];
  }
};

// Column sums of dy, in chunks.
struct BiasSums {
  FeatureMap dy;
  Global<float> partial;  // [chunk][K]
  int channels;
  struct Column {
    FeatureMap dy;
    int k;
    __device__ void add(int64_t row, Vec<float, 1>& sums) const { sums.v[0] += number(dy, row, k); }
  };
  __device__ Column column(int, int k) const { return {dy, k}; }
  __device__ void write(int, int chunk, int k, const Vec<float, 1>& sums) const {
    partial[int64_t(chunk) * channels + k] = sums.v[0];
  }
};

void addGradients(CudaDevice& device, const ConvProblem& p, const Tensor& convolution, void* scratch) {
  const Tensor &dw = p.filter, &dy = p.response;
  accumulate(device, in(convolution).data, out(dw).data, dw.elements(), dw.elements(), 1);
  if (!p.dBias) return;
  const int chunks = columnChunks(dy.rows());
  const Global<float> partial = scratchOf<float>(scratch, 0, int64_t(chunks) * dy.c);
  columnSums<1>(device, BiasSums{featureMap(dy), partial, dy.c}, 1, dy.rows(), dy.c, chunks);
  accumulate(device, partial, out(p.dBias).data, dy.c, dy.c, chunks);
}

}  // namespace

size_t finishScratch(const ConvProblem& p) {
  if (p.kind != ConvKind::wgrad) return 0;
  return size_t(columnChunks(p.response.rows())) * size_t(p.response.c) * sizeof(float);
}

void finish(CudaDevice& device, const ConvProblem& p, const Tensor& convolution, void* scratch) {
  if (p.kind == ConvKind::wgrad) return addGradients(device, p, convolution, scratch);
  const Tensor& y = p.result();
  pointwise(device, bySample({&y, &convolution, &p.bias, &p.sampleBias, &p.residual}),
            AddUp{featureMap(convolution), featureMap(p.bias), featureMap(p.sampleBias), featureMap(p.residual),
                  featureMap(y)});
}

}  // namespace ddpm::cuda::cudnn
