/** GPUs as a model of time sees them. */

export interface Gpu {
  readonly name: string
  readonly multiprocessors: number
  /** FLOP/s of 16-bit products with float32 sums on tensor cores, without sparsity. */
  readonly tensorFlops: number
  /** FLOP/s of float32 on ordinary cores: 128 multiply-adds a clock and multiprocessor at the boost clock. */
  readonly floatFlops: number
  /** Bytes a second. */
  readonly bandwidth: number
  /** What mma.sync reaches of tensorFlops: 1 where it is the instruction of these tensor cores. */
  readonly mmaShare: number
  readonly source: string
}

/**
 * Of Hopper's tensor cores mma.sync reaches 62.9 % (Luo et al., Benchmarking and dissecting the NVIDIA Hopper GPU architecture
 * via microbenchmarking, arXiv:2402.13499); all of it takes wgmma.
 */
const hopperMma = 0.629

const floats = (multiprocessors: number, boostHertz: number) => multiprocessors * 128 * 2 * boostHertz

export const gpus: Readonly<Record<string, Gpu>> = {
  H200: {
    name: 'H200 SXM',
    multiprocessors: 132,
    tensorFlops: 989e12,
    floatFlops: floats(132, 1.98e9),
    bandwidth: 4.8e12,
    mmaShare: hopperMma,
    source: 'NVIDIA H200 Tensor Core GPU datasheet; multiprocessors and clock: H100 architecture whitepaper',
  },
  H100: {
    name: 'H100 SXM',
    multiprocessors: 132,
    tensorFlops: 989e12,
    floatFlops: floats(132, 1.98e9),
    bandwidth: 3.35e12,
    mmaShare: hopperMma,
    source: 'NVIDIA H100 Tensor Core GPU datasheet and architecture whitepaper',
  },
  A100: {
    name: 'A100 SXM 80 GB',
    multiprocessors: 108,
    tensorFlops: 312e12,
    floatFlops: 108 * 64 * 2 * 1.41e9, // half as many ordinary cores
    bandwidth: 2.039e12,
    mmaShare: 1,
    source: 'NVIDIA A100 80GB datasheet; A100 architecture whitepaper',
  },
  RTX4090: {
    name: 'GeForce RTX 4090',
    multiprocessors: 128,
    tensorFlops: 165.2e12,
    floatFlops: floats(128, 2.52e9),
    bandwidth: 1.008e12,
    mmaShare: 1,
    source: 'NVIDIA Ada GPU architecture whitepaper, appendix A',
  },
}

/** Between the starts of two kernels of a CUDA graph that wait for each other: assumed, nothing was measured. */
export const launchSeconds = 2e-6
