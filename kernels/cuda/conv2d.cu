// Convolution and its gradients as matrix products whose operands are gathered on the way to shared memory (implicit
// GEMM): how a product is divided up, and which of the kernels computes it. conv2d_f32.cu has those of fp32, on the
// ordinary cores; conv2d_mma.cu and conv2d_wgrad_mma.cu those of 16-bit operands, on tensor cores.
//
// Long sums with few tiles are split: each split writes its part to scratch memory, and a second kernel adds them up in
// order. The order of additions within a split is the same for every tile, so that a sample's result depends on the
// batch by the number of splits only, and not at all where they are those of one sample (PlanOptions::deterministic).
#include <algorithm>
#include <iterator>

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

constexpr int kMaxSplits = 8;
constexpr int64_t kPartOfSum = 128;  // at least, of what a split adds up

// Enough blocks to fill a large GPU, where the sum is long enough to be worth it.
int splitsOf(const CudaDevice& device, const Tensor& y, int64_t reduction, const PlanOptions& options) {
  const int64_t rows = options.deterministic ? pixels(y) : y.rows();
  const int64_t tiles = std::max<int64_t>(1, ceilDiv(rows, 64) * ceilDiv(y.c, 64));
  const int64_t wanted = options.deterministic ? 32 : device.multiprocessors();
  return int(std::max<int64_t>(1, std::min<int64_t>({kMaxSplits, wanted / tiles, reduction / kPartOfSum})));
}

struct Tile {
  ConvAlgo algo;
  int rows, columns;
};
constexpr Tile kTiles[] = {{ConvAlgo::tile128x128, 128, 128},
                           {ConvAlgo::tile128x64, 128, 64},
                           {ConvAlgo::tile64x64, 64, 64},
                           {ConvAlgo::tile32x64, 32, 64},
                           {ConvAlgo::tile128x16, 128, 16}};
constexpr Tile kF32 = {ConvAlgo::direct, 64, 64};

// The one by shapes first; those behind are for where they can be timed: all tiles of which less than half is empty,
// each in as many parts as there are multiprocessors for, and the sum is long enough for.
std::vector<ConvPlan> planProduct(const CudaDevice& device, const Tensor& source, const Tensor& w, const Tensor& y,
                                  const PlanOptions& options, size_t packedBytes) {
  const int64_t reduction = int64_t(w.h) * w.w * source.c;
  ConvPlan usual = {
      .algo = ConvAlgo::direct, .packedBytes = packedBytes, .splits = splitsOf(device, y, reduction, options)};
  const bool narrow = narrowOperands(source, w);
  if (narrow)
    usual.algo = options.forceAlgo >= int(ConvAlgo::tile128x128) && options.forceAlgo <= int(ConvAlgo::tile128x16)
                     ? ConvAlgo(options.forceAlgo)
                     : chooseTile(device, y.rows(), y.c, usual.splits);
  std::vector<ConvPlan> plans = {usual};
  const auto addAll = [&](const Tile& tile) {
    const int64_t rows = ceilDiv(y.rows(), tile.rows), columns = ceilDiv(y.c, tile.columns), tiles = rows * columns;
    const bool wasteful = tiles * tile.rows * tile.columns > 2 * y.elements();
    if (wasteful && tile.algo != usual.algo) return;
    for (int splits = 1; splits <= kMaxSplits; splits *= 2) {
      if (splits > 1 && (splits * kPartOfSum > reduction || tiles * splits > 2 * device.multiprocessors())) break;
      if (tile.algo != usual.algo || splits != usual.splits)
        plans.push_back({.algo = tile.algo, .packedBytes = packedBytes, .splits = splits});
    }
  };
  if (narrow)
    std::for_each(std::begin(kTiles), std::end(kTiles), addAll);
  else
    addAll(kF32);
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
  return choose(device, op, options, planProduct(device, op.x, op.w, op.y, options, 0));
}

ConvPlan planDgrad(const CudaDevice& device, const Conv2dDgrad& op, const PlanOptions& options) {
  const size_t packedBytes = op.w.dtype == DType::f32 ? size_t(op.w.elements()) * sizeof(float) : 0;
  return choose(device, op, options, planProduct(device, op.dy, op.w, op.dx, options, packedBytes));
}

ConvAlgo planWgrad(const CudaDevice& device, const Conv2dWgrad& op, const PlanOptions& options) {
  if (!narrowOperands(op.x, op.dy)) return choose(device, op, options, {ConvPlan()}).algo;
  ConvPlan usual;  // chooses between the others by itself
  const ConvPlan small = {.algo = ConvAlgo::tile64x64}, large = {.algo = ConvAlgo::tile128x128};
  for (const ConvPlan& plan : {small, large})
    if (options.forceAlgo == int(plan.algo)) usual = plan;
  return choose(device, op, options, {usual, small, large}).algo;
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
