// Convolution and its gradients as matrix products whose operands are gathered on the way to shared memory (implicit
// GEMM): how a product is divided up, and which of the kernels computes it. conv2d_f32.cu has those of fp32, on the
// ordinary cores; conv2d_mma.cu and conv2d_wgrad_mma.cu those of 16-bit operands, on tensor cores.
//
// Long sums with few tiles are split: each split writes its part to scratch memory, and a second kernel adds them up in
// order. The order of additions within a split is the same for every tile, so that a sample's result depends on the
// batch by the number of splits only, and not at all where they are those of one sample (PlanOptions::deterministic).
#include "kernels/cuda/choose.h"
#include "kernels/cuda/conv2d.cuh"
#include "kernels/cuda/cudnn/cudnn.h"
#include "kernels/cuda/transpose.cuh"

namespace ddpm::cuda {
namespace {

bool isNarrow(const Tensor& t) { return t.dtype == DType::f16 || t.dtype == DType::bf16; }

template <class Op>
bool isLibrary(const Op& op) {
  return op.algo == ConvAlgo::library;
}

// Operands are in one precision.
bool narrowOperands(const Tensor& a, const Tensor& b) {
  if (a.dtype != b.dtype || (a.dtype != DType::f32 && !isNarrow(a)))
    throw BackendError(ErrorCode::invalidArgument, "a convolution of operands in different precisions");
  return isNarrow(a);
}

// Enough blocks to fill a large GPU, where the sum is long enough to be worth it.
int splitsOf(const CudaDevice& device, const Tensor& y, int64_t reduction, const PlanOptions& options) {
  const int64_t rows = options.deterministic ? pixels(y) : y.rows();
  const int64_t tiles = std::max<int64_t>(1, ceilDiv(rows, 64) * ceilDiv(y.c, 64));
  const int64_t wanted = options.deterministic ? 32 : device.multiprocessors();
  return int(std::max<int64_t>(1, std::min<int64_t>({8, wanted / tiles, reduction / 128})));
}

constexpr ConvAlgo kTiles[] = {ConvAlgo::tile128x128, ConvAlgo::tile128x64, ConvAlgo::tile64x64, ConvAlgo::tile32x64,
                               ConvAlgo::tile128x16};

// Best first, by shapes; those behind are for where they can be timed.
std::vector<ConvPlan> planProduct(const CudaDevice& device, const Tensor& source, const Tensor& w, const Tensor& y,
                                  const PlanOptions& options) {
  ConvPlan plan;
  plan.splits = splitsOf(device, y, int64_t(w.h) * w.w * source.c, options);
  if (!narrowOperands(source, w)) return {plan};
  plan.algo = options.forceAlgo >= int(ConvAlgo::tile128x128) && options.forceAlgo <= int(ConvAlgo::tile128x16)
                  ? ConvAlgo(options.forceAlgo)
                  : chooseTile(device, y.rows(), y.c, plan.splits);
  std::vector<ConvPlan> plans = {plan};
  for (const ConvAlgo tile : kTiles)
    if (tile != plan.algo) plans.push_back({.algo = tile, .packedBytes = 0, .splits = plan.splits});
  return plans;
}

size_t partsBytes(const Tensor& y, int splits) {
  return splits > 1 ? size_t(splits) * size_t(y.elements()) * sizeof(float) : 0;
}

// Computes y by `product`, in parts where there are several; see ConvProduct.
template <class F>
void inParts(CudaDevice& device, const Tensor& y, const Epilogue& epilogue, int splits, void* scratch,
             const F& product) {
  if (splits == 1) return product(epilogue);
  Tensor parts = {.data = scratch, .n = splits * y.n, .h = y.h, .w = y.w, .c = y.c, .ld = y.c};
  product(Epilogue(parts, {}, {}, {}));
  const AddParts add = {scratchOf<float>(scratch, 0, parts.elements()), epilogue, y.rows(), y.c, splits};
  const Extent extent = {1, y.rows(), y.c, 1};
  if (epilogue.eights)
    pointwiseOf<8>(device, extent, add);
  else
    pointwiseOf<1>(device, extent, add);
}

void runProduct(CudaDevice& device, const ConvProduct& p) {
  if (p.gather.pixels == 0) return;
  if (isNarrow(p.source))
    productMma(device, p);
  else
    productF32(device, p);
}

}  // namespace

ConvPlan planConv(const CudaDevice& device, const Conv2d& op, const PlanOptions& options) {
  return choose(device, op, options, planProduct(device, op.x, op.w, op.y, options));
}

ConvPlan planDgrad(const CudaDevice& device, const Conv2dDgrad& op, const PlanOptions& options) {
  std::vector<ConvPlan> plans = planProduct(device, op.dy, op.w, op.dx, options);
  if (op.w.dtype == DType::f32) plans.front().packedBytes = size_t(op.w.elements()) * sizeof(float);
  return choose(device, op, options, plans);
}

ConvAlgo planWgrad(const CudaDevice& device, const Conv2dWgrad& op, const PlanOptions& options) {
  ConvPlan plan;
  const bool forced = options.forceAlgo == int(ConvAlgo::tile64x64) || options.forceAlgo == int(ConvAlgo::tile128x128);
  if (narrowOperands(op.x, op.dy) && forced) plan.algo = ConvAlgo(options.forceAlgo);
  return choose(device, op, options, {plan}).algo;
}

// KRSC to CRSK: each tap is a matrix.
void run(CudaDevice& device, const ConvPackWeights& op, void*) {
  if (op.pass != ConvPass::dgrad)
    throw BackendError(ErrorCode::invalidArgument, "the forward convolution takes its weights unpacked");
  const Tensor& w = op.w;
  const int taps = w.h * w.w;
  transpose(device, in(w).data, {w.c, int64_t(taps) * w.c}, Global<float>(static_cast<float*>(op.packed), w.elements()),
            {w.n, int64_t(taps) * w.n}, taps, w.n, w.c);
}

size_t scratch(const CudaDevice& device, const Conv2d& op) {
  return isLibrary(op) ? cudnn::scratch(device, problemOf(op)) : partsBytes(op.y, op.splits);
}
size_t scratch(const CudaDevice& device, const Conv2dDgrad& op) {
  return isLibrary(op) ? cudnn::scratch(device, problemOf(op)) : partsBytes(op.dx, op.splits);
}
size_t scratch(const CudaDevice& device, const Conv2dWgrad& op) {
  if (isLibrary(op)) return cudnn::scratch(device, problemOf(op));
  return isNarrow(op.x) ? wgradScratchMma(device, op) : wgradScratchF32(op);
}

void run(CudaDevice& device, const Conv2d& op, void* scratch) {
  if (isLibrary(op)) return cudnn::run(device, problemOf(op), scratch);
  narrowOperands(op.x, op.w);
  const Epilogue epilogue(op.y, op.bias, op.sampleBias, op.residual);
  const Gather gather = forwardGather(op.x, op.y, op.w.h, op.w.w, op.shape);
  inParts(device, op.y, epilogue, op.splits, scratch, [&](const Epilogue& target) {
    runProduct(device,
               {ConvPass::forward, op.algo, gather, op.x, op.w, nullptr, target, op.y.c, op.splits, op.y.rows()});
  });
}

void run(CudaDevice& device, const Conv2dDgrad& op, void* scratch) {
  if (isLibrary(op)) return cudnn::run(device, problemOf(op), scratch);
  if (!narrowOperands(op.dy, op.w) && !op.packed)
    throw BackendError(ErrorCode::invalidArgument, "dgrad in fp32 reads packed weights; see planDgrad");
  const Epilogue epilogue(op.dx, {}, {}, op.residual);
  inParts(device, op.dx, epilogue, op.splits, scratch, [&](const Epilogue& target) {
    forEachDgradPhase(op.dy, op.dx, op.w.h, op.w.w, op.shape, [&](const Gather& gather) {
      runProduct(device,
                 {ConvPass::dgrad, op.algo, gather, op.dy, op.w, op.packed, target, op.dx.c, op.splits, op.dx.rows()});
    });
  });
}

void run(CudaDevice& device, const Conv2dWgrad& op, void* scratch) {
  if (isLibrary(op)) return cudnn::run(device, problemOf(op), scratch);
  if (narrowOperands(op.x, op.dy))
    wgradMma(device, op, scratch);
  else
    wgradF32(device, op, scratch);
}

}  // namespace ddpm::cuda
