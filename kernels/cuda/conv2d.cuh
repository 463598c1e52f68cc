// What conv2d.cu chooses among: for each kind of convolution a launcher in fp32 and one on tensor cores.
#pragma once
#include "kernels/cuda/conv2d_epilogue.cuh"
#include "kernels/cuda/conv2d_gather.cuh"

namespace ddpm::cuda {

// Forward or dgrad; one phase of it.
struct ConvProduct {
  ConvPass pass;
  ConvAlgo algo;
  Gather gather;
  Tensor source, w;  // w KRSC
  const void* packed;
  Epilogue epilogue;
  int channels;  // of the result
  int splits;    // parts of the sum; part i of row r is the epilogue's row i * rowsPerPart + r
  int64_t rowsPerPart;
};
void productF32(CudaDevice& device, const ConvProduct& p);
void productMma(CudaDevice& device, const ConvProduct& p);

// Whether so many tiles occupy all multiprocessors, or all but a few: a smaller tile would cost more than these idle.
inline bool fills(const CudaDevice& device, int64_t tiles) { return 100 * tiles >= 95 * device.multiprocessors(); }

// The block of the result that a block of threads computes on tensor cores.
ConvAlgo chooseTile(const CudaDevice& device, int64_t pixels, int channels, int splits);

void wgradF32(CudaDevice& device, const Conv2dWgrad& op, void* scratch);
void wgradMma(CudaDevice& device, const Conv2dWgrad& op, void* scratch);
size_t wgradScratchF32(const Conv2dWgrad& op);
size_t wgradScratchMma(const CudaDevice& device, const Conv2dWgrad& op);

}  // namespace ddpm::cuda
