/** Networks as a model of the exchange of gradients sees them. Each rank has a link of its own, and nothing between them is shared. */

export interface Network {
  readonly name: string
  /** Bytes a second of a rank's link, each way. */
  readonly bandwidth: number
  /** Seconds from one rank to another, of an empty message. */
  readonly latency: number
  /** Seconds of a rank for each message that it sends, while it can send no other. */
  readonly message: number
  /** How many ranks it connects; any number where absent. */
  readonly ranks?: number
  readonly source: string
}

/** Sockets of the kernel: assumed, nothing was measured. */
const sockets = { latency: 25e-6, message: 2e-6 }
/** What ends on the adapter or the GPU itself, a work request each: assumed, nothing was measured. */
const workRequest = 0.1e-6

export const networks: Readonly<Record<string, Network>> = {
  '10gbe': {
    name: '10 GbE',
    bandwidth: 10e9 / 8,
    ...sockets,
    source: 'rate: IEEE 802.3ae; TCP by sockets, latency and messages assumed',
  },
  '100gbe': {
    name: '100 GbE',
    bandwidth: 100e9 / 8,
    ...sockets,
    source: 'rate: IEEE 802.3ba; TCP by sockets, latency and messages assumed',
  },
  nvlink: {
    name: 'NVLink 4',
    bandwidth: 450e9,
    latency: 3.4e-6,
    message: workRequest,
    ranks: 8,
    source:
      'rate: 900 GB/s both ways together, NVIDIA H200 datasheet; latency: hwLat of NVLink, Ring Simple, in NCCL (src/graph/tuning.cc); messages assumed; 8 GPUs of a board',
  },
  'infiniband-ndr': {
    name: 'InfiniBand NDR',
    bandwidth: 400e9 / 8,
    latency: 9.6e-6,
    message: workRequest,
    source:
      'rate: NDR, 400 Gb/s, NVIDIA ConnectX-7 datasheet, an adapter for each rank; latency: hwLat of a network, Ring Simple, in NCCL (src/graph/tuning.cc); messages assumed',
  },
}
