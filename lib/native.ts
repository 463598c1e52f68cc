/** The only place that loads the addon, and the only one that knows its types. */
import path from 'node:path'
import { DiffusionError } from './errors'
import type { FileDType } from './file-numbers'

export type NativeDType = 'f32' | 'i32'

/**
 * Of a program. fp32: every number is float32. fp16, bf16: mixed; operands of convolutions, linear layers and attention
 * have 16 bits (on a device that `roundsOperands`, as they are multiplied), sums, weights and all else stay float32.
 */
export const precisions = ['fp32', 'fp16', 'bf16'] as const
export type Precision = (typeof precisions)[number]

/** How a bank holds weights of convolutions and linear layers; kernels/ops.h, Weights. */
export type WeightFormat = 'fp32' | 'fp16' | 'bf16' | 'int8'
export const weightFormats: readonly WeightFormat[] = ['fp32', 'fp16', 'bf16', 'int8']

/** [n, h, w, c], as in kernels/ops.h. */
export type Dims = readonly [number, number, number, number]

/** A value of a graph: an index. */
export type ValueId = number

export type Attributes = Record<string, number | boolean | string | readonly number[]>

export interface DeviceInfo {
  name: string
  /** The instruction set of the CPU ('avx2'), the architecture of a GPU ('sm_90'). */
  isa: string
  /** What computes products of precision bf16 on the CPU: avx512bf16, amx, ...; empty where nothing does. */
  bf16: string
  /** Threads of the CPU, multiprocessors of a GPU. */
  threads: number
  memoryBytes: number
  /** Of them, what this process could still allocate. */
  freeBytes: number
  precisions: Precision[]
  /** What a precision that is none of them would need, where that is known: { bf16: 'a processor with AVX512-BF16' }. */
  lacks: Partial<Record<Precision, string>>
  /** Formats in which it takes weights. */
  weightFormats: WeightFormat[]
  /** Whether tensors stay float32 in programs of mixed precision, and operands are rounded as they are multiplied. */
  roundsOperands: boolean
}

/** A backend's device with a thread of its own, on which everything is executed in the order it was asked for. */
export interface NativeDevice {
  readonly backend: string
  readonly index: number
  /** Whether compiling for it may take seconds, as algorithms are chosen by times; see NativeGraph.compileBeside. */
  readonly timesAlgorithms: boolean
  /** E.g. { name: 'AMD EPYC', isa: 'avx2', threads: 2, memoryBytes: 25e9, freeBytes: 9e9, precisions: ['fp32', 'bf16'] }. */
  info(): DeviceInfo
  /**
   * Libraries of others that the backend uses ('cuDNN 9.5.1 in /usr/lib'), or why none, and what of the device's memory is not as
   * it should be; '' where there is nothing to say. Opens them.
   */
  libraries(): string
  /**
   * What went another way than it should have, although results are right: programs that the device can't record. Each once,
   * and no more than 32 of them.
   */
  warnings(): string[]
  /** Memory of `elements` 4-byte numbers, zeroed. Throws out-of-memory. */
  allocate(elements: number): NativeBuffer
  /** Bytes now held by buffers and programs of this device. */
  memoryInUse(): number
  /** Of them, the memory that all programs share. */
  workspaceBytes(): number
  /** Resolves when everything asked for before it is done. */
  synchronize(): Promise<void>
  /**
   * Runs programs one after the other, each as `NativeProgram.run` does, and waits for the device once, at the end. What is
   * asked for meanwhile has its turn between two of them. `stop`, and the release of a program, have no further run begin:
   * `done` then resolves after those that have.
   */
  runAll(runs: readonly NativeRun[]): { readonly done: Promise<void>; stop(): void }
  /** Stops the thread; what still waits is rejected. Called by the environment's cleanup hook too. */
  close(): void
}

export interface NativeRun {
  readonly program: NativeProgram
  readonly bindings: Readonly<Record<string, NativeBuffer>>
}

/** Where numbers lie in a buffer, and in what format. */
export interface HeldNumbers {
  /** In elements of four bytes. */
  readonly offset: number
  /** Numbers. */
  readonly length: number
  readonly format: WeightFormat
  /** Of int8: numbers of a row, and where the rows' factors lie, in elements. */
  readonly row?: number
  readonly scales?: number
  /** For messages. */
  readonly name?: string
}

/** A tensor in a file, and where it goes. */
export interface StoredNumbers {
  /** Of its first number, in bytes of the file. */
  readonly position: number
  readonly dtype: FileDType
  readonly place: HeldNumbers
  /** In the file, and their order in the buffer. */
  readonly axes: Dims
  readonly order: Dims
}

/** A parameter's initial values in terms of its stream: a; a + b z; or a (2 u - 1) with u in (0, 1). */
export interface InitialValues {
  readonly kind: 'constant' | 'normal' | 'uniform'
  readonly place: HeldNumbers
  /** Of the stream: the parameter's number. */
  readonly index: number
  readonly a: number
  readonly b: number
}

/** Device memory. */
export interface NativeBuffer {
  readonly elements: number
  /** Copies the data (Float32Array or Int32Array) before it returns; the device sees it in order. */
  write(data: Float32Array | Int32Array, offset?: number): void
  /** Resolves with `length` numbers from `offset` (default: all). */
  read(offset?: number, length?: number): Promise<Float32Array>
  /** Resolves with how often it has been written, in order: the same twice where what was read between is of one moment. */
  version(): Promise<number>
  /** Resolves with a whole number that is the same where all bits are, and hardly ever otherwise. */
  checksum(): Promise<number>
  /** Copy on the device, in order. */
  copyFrom(source: NativeBuffer, sourceOffset?: number, offset?: number, length?: number): void
  /**
   * Reads tensors of a regular file into their places, on the device's thread and others, between whose pieces what else is asked of the
   * device has its turn. `file`: its descriptor, of which the addon makes its own. Rejects with `io`, with `bad-file` where the file
   * is too short, and with `unsupported` for numbers that a format has none for.
   */
  load(file: number, tensors: readonly StoredNumbers[]): Promise<void>
  /** Draws initial weights from the seed's streams, on the device's thread and others, in order. */
  draw(seedLow: number, seedHigh: number, parameters: readonly InitialValues[]): void
  /** The same of an array, which is copied before it returns. */
  fill(data: Float32Array, place: HeldNumbers): Promise<void>
  /** Resolves with the numbers of a place, as float32. */
  readAt(place: HeldNumbers): Promise<Float32Array>
  /** Adds as many numbers of another buffer of the device to these, in order. */
  add(source: NativeBuffer): void
  /** Sets all to zero, in order. */
  clear(): void
  /** Frees the memory (after what was asked for before). Using it afterwards throws. */
  release(): void
}

/**
 * The processes that were started together; native/runtime/world.h. All ranks call the same in the same order. Promises reject with
 * `rank-failed` where the others do not come to it in time, or the library fails; every later call then does.
 */
export interface NativeWorld {
  readonly rank: number
  readonly size: number
  /** 'Open MPI v4.1.4' */
  readonly library: string
  barrier(): Promise<void>
  /** The bytes of rank `root`, of one length on all. */
  broadcast(bytes: Uint8Array, root: number): Promise<Uint8Array>
  /** The bytes of all ranks, of one length on each, one after the other. */
  gather(bytes: Uint8Array): Promise<Uint8Array>
  /**
   * On the thread of the buffers' device, in order: banks[i] is the i-th node of the batches [rank * share, (rank + 1) * share)
   * (native/graph/rank_sum.h); then the last bank is the sum over all ranks, with the same bits on each.
   */
  sumBanks(banks: readonly NativeBuffer[], share: number): Promise<void>
  /** What of a bank of `count` elements is this rank's, of those who share it (native/graph/bank_parts.h), in order. */
  ownParts(count: number): { begin: number; length: number }[]
  /** On the thread of the bank's device, in order: each rank has its own parts of it; then all have the whole. */
  gatherParts(bank: NativeBuffer): Promise<void>
  /** As NativeModule.joinDevices, of all its ranks. */
  joinDevices(device: NativeDevice, seconds: number): NativeWorld
  /** The most seconds that one operation may take. Default 600. */
  setTimeout(seconds: number): void
  /** That this rank has sent to others. */
  bytesSent(): number
  /** In order (default): when all others leave. Else at once, which the launcher takes for the end of all. */
  leave(inOrder?: boolean): void
}

export interface NativeCompileOptions {
  deterministic?: boolean
  forceAlgo?: number
  /** See CompileOptions. */
  packedBytes?: number
  precision?: Precision
  /** False: the program has no memory, and does not run, until its `reserve` is called. Default true. */
  reserve?: boolean
}

/** Builds a graph; every call checks shapes and throws a DiffusionError-shaped error (code, argument, expected, received). */
export interface NativeGraph {
  /**
   * Adds a node and returns its values. See lib/graph.ts for the ops, their inputs and attributes; -1 is an absent input.
   */
  add(op: string, inputs: readonly ValueId[], attributes: Attributes): ValueId[]
  dims(value: ValueId): [number, number, number, number]
  /** What is added between `region(true)` and `region(false)` is computed again by `backward`'s nodes; see Graph.recomputed. */
  region(open: boolean): void
  /**
   * Reverse mode from a scalar: appends the gradient nodes, accumulates the gradients of parameters into the bank
   * 'grads', and returns the gradients of the values `wrt` (-1 where the loss does not depend on one).
   */
  backward(loss: ValueId, wrt: readonly ValueId[]): ValueId[]
  /** Fuses, plans memory, chooses dtypes and algorithms. `outputs`: name -> value. */
  compile(device: NativeDevice, outputs: Record<string, ValueId>, options: NativeCompileOptions): NativeProgram
  /** The same on a thread beside the device's. Rejects with `closed` where the device is closed meanwhile. */
  compileBeside(
    device: NativeDevice,
    outputs: Record<string, ValueId>,
    options: NativeCompileOptions,
  ): Promise<NativeProgram>
}

/** An operand of a step. */
export interface StepTensor {
  readonly dims: Dims
  /** Elements from one pixel to the next. */
  readonly ld: number
  readonly dtype: 'f32' | 'f16' | 'bf16' | 'i32'
  readonly access: 'read' | 'write' | 'update'
  /** Where it lies: a number for each buffer, arena value or packed weight, and bytes from its start. */
  readonly storage: number
  readonly offset: number
}

/** A kernel of a GPU as it is launched: blocks, threads of a block, bytes of dynamic shared memory of a block. */
export interface KernelLaunch {
  readonly kernel: string
  readonly grid: readonly [number, number, number]
  readonly block: readonly [number, number, number]
  readonly sharedBytes: number
}

/** One op of a program; see kernels/ops.h. */
export interface ProgramStep {
  readonly op: string
  /** Runs only when weights have changed. */
  readonly prologue: boolean
  /** Of convolutions. */
  readonly algo?: string
  readonly splits?: number
  /** Those that are present, by the name of the field. */
  readonly tensors: Readonly<Record<string, StepTensor>>
  readonly scratchBytes: number
  /** What it launches, in order; absent where the backend cannot tell. cuda-host can. */
  readonly launches?: readonly KernelLaunch[]
}

export interface NativeProgram {
  /** Bytes of the arena, of packed weights, of scratch, and their sum; and of what has to be bound, by name. */
  memory(): { arena: number; packed: number; scratch: number; total: number; bound: Record<string, number> }
  /** Takes the memory that it needs, unless it has it. Throws out-of-memory. */
  reserve(): void
  /**
   * Runs once on the device's thread. `bindings`: a buffer for every input and output by its name, and for the banks that
   * the graph uses: 'weights', 'grads', 'm', 'v', 'ema'. Input and output may be the same buffer only where the op that
   * writes the output is elementwise in it.
   */
  run(bindings: Record<string, NativeBuffer>): Promise<void>
  /** The compiled steps, one line each, with chosen algorithms (DDPM_DEBUG=plan prints it). */
  describe(): string
  /** The same as data, with what each step would launch. */
  steps(): ProgramStep[]
  /**
   * How its runs were issued: op by op, or as one launch of what was recorded (a CUDA graph). The CPU's are all direct; a
   * device that records does so when a program runs the second time with the same buffers. One that can't be recorded is
   * direct from then on, which is among the device's warnings.
   */
  launches(): { direct: number; recorded: number; replayed: number }
  release(): void
}

export interface NativeModule {
  /** Names of the backends that can be asked for, e.g. ['cpu', 'reference']. */
  backends(): string[]
  /** Throws device-unavailable with what is missing and what was tried. `threads` 0: DDPM_NUM_THREADS or all cores. */
  openDevice(backend: string, index: number, threads: number): NativeDevice
  /** Closes all devices of this thread. */
  closeDevices(): void
  /**
   * Joins by the library 'mpi', once a process, on one of its threads. Throws device-unavailable, unsupported, and rank-failed where not
   * all join within `seconds`.
   */
  joinWorld(library: string, seconds: number): NativeWorld
  /** By which devices of several processes find one another: made by one of them. Throws device-unavailable where NCCL is not there. */
  worldId(device: NativeDevice): Uint8Array
  /**
   * Joins the other processes' devices, once a device: what this is asked for then are jobs of the device. Waits for the others. Throws
   * device-unavailable, rank-failed.
   */
  joinDevices(device: NativeDevice, id: Uint8Array, rank: number, size: number, seconds: number): NativeWorld
  createGraph(): NativeGraph
  /** Normal numbers of a stream (kernels/philox.h), for host-side use: n of them from element 0. */
  normal(seedLow: number, seedHigh: number, purpose: number, sample: number, step: number, n: number): Float32Array
  /** Raw 32-bit words of a stream. */
  philox(seedLow: number, seedHigh: number, purpose: number, sample: number, step: number, n: number): Uint32Array
  /** Measured peak of the machine's fused multiply-add throughput, in GFLOP/s, with `threads` threads (bench only). */
  measureFmaPeak(threads: number, seconds: number): number
}

// node-gyp-build has no types.
const load = require('node-gyp-build') as (root: string) => unknown

const root = path.join(__dirname, '..', '..')

/** The addon; where it can't be loaded, what throws `device-unavailable` as soon as it is used. */
export const native = open()

function open(): NativeModule {
  try {
    const addon = load(root) as NativeModule
    // Otherwise process.exit() would tear the process down under the devices' threads. The addon does the same at exit() for those
    // that are opened later.
    process.on('exit', () => addon.closeDevices())
    return addon
  } catch (cause) {
    // It could have been, but there is too little memory for what comes next.
    if ((cause as { code?: unknown }).code === 'out-of-memory') throw cause
    return new Proxy({} as NativeModule, {
      get() {
        throw notLoaded(cause)
      },
    })
  }
}

function notLoaded(cause: unknown): DiffusionError {
  const machine = `${process.platform}-${process.arch}`
  const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]
  const message =
    `the addon of ddpm-native can't be loaded on ${machine} with Node ${process.version}: looked for ` +
    `${path.join(root, 'build', 'Release')} and ${path.join(root, 'prebuilds', machine)}: ${reason}. The package has it for linux-x64 ` +
    'with glibc; elsewhere a checkout builds it (npm install, with CMake and a C++20 compiler)'
  return new DiffusionError('device-unavailable', message, {
    expected: 'linux-x64 with glibc',
    received: machine,
    cause,
  })
}
