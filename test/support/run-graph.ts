/** Builds a graph by a callback and runs it on a device by name. */
import { Device, type DeviceName } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { type CompileOptions, Program } from '../../lib/program'
import type { Random } from './random'

export { testedBackends } from './devices'

/** ConvAlgo::winogradUpsample of kernels/ops.h. */
export const winogradUpsample = 9
/** ConvAlgo::directBf16 of kernels/ops.h. */
export const directBf16 = 10

/** What an input is fed with. Int32Array makes it an i32 input. */
export interface Feed {
  readonly dims: Dims
  readonly data: Float32Array | Int32Array
}

export type Feeds = Readonly<Record<string, Feed>>
export type Values = Readonly<Record<string, Value>>
export type Outputs = Record<string, Float32Array>

export interface RunOptions extends Partial<CompileOptions> {
  /** A ConvAlgo of kernels/ops.h, used wherever it is possible. */
  forceAlgo?: number
  /** Of the CPU backend. */
  threads?: number
}

export const count = (dims: Dims): number => dims.reduce((a, b) => a * b, 1)

export const normals = (random: Random, dims: Dims, scale = 1, mean = 0): Feed => ({
  dims,
  data: random.normals(count(dims), scale, mean),
})

export const integers = (random: Random, dims: Dims, below: number): Feed => ({
  dims,
  data: random.integers(count(dims), below),
})

export function addInputs(graph: Graph, feeds: Feeds): Values {
  return Object.fromEntries(
    Object.entries(feeds).map(([name, { dims, data }]) => [
      name,
      graph.input(name, dims, data instanceof Int32Array ? 'i32' : 'f32'),
    ]),
  )
}

export function compileGraph(
  device: DeviceName,
  build: (graph: Graph) => Record<string, Value>,
  { threads, ...options }: RunOptions = {},
): Program {
  return Program.compile(Device.open(device, { threads }), build, { deterministic: false, ...options })
}

/**
 * Runs once and returns the outputs. `banks` are the flat buffers that the graph uses ('weights', 'grads', 'm', 'v', 'ema');
 * their contents afterwards are returned under their names.
 */
export async function runGraph(
  deviceName: DeviceName,
  feeds: Feeds,
  build: (graph: Graph, inputs: Values) => Record<string, Value>,
  options: RunOptions & { banks?: Readonly<Record<string, Float32Array>> } = {},
): Promise<Outputs> {
  const { banks = {}, ...rest } = options
  const device = Device.open(deviceName, { threads: rest.threads })
  const program = compileGraph(deviceName, (graph) => build(graph, addInputs(graph, feeds)), rest)
  const buffers = Object.fromEntries(Object.entries(banks).map(([name, data]) => [name, device.upload(data)]))
  try {
    const data = Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, feed.data]))
    const outputs = await program.run({ ...data, ...buffers })
    for (const [name, buffer] of Object.entries(buffers)) outputs[name] = await buffer.read()
    return outputs
  } finally {
    program.release()
    for (const buffer of Object.values(buffers)) buffer.release()
  }
}
