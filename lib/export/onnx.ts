/** Writes a network as an ONNX model (https://onnx.ai), which other runtimes can execute. */
import { endianness } from 'node:os'
import { atomicWrite } from '../checkpoint/atomic-write'
import { DiffusionError, invalidArgument } from '../errors'
import { conditioningOf } from '../nn/conditions'
import type { Network } from '../nn/network'
import { boolean, integer, parseOptions, type SchemaOf, value } from '../options'
import type { ParameterSlot } from '../parameter-slot'
import { bytesOf, checkTwoFiles, dataFileOf, dataNameOf, placeOutside, writeTwoFiles } from './external-data'
import { OnnxGraph } from './onnx-graph'
import { encodeModel, isOutside, type OnnxModel } from './onnx-model'

/** Of exportOnnx. */
export interface OnnxOptions {
  /** Of the images in pixels, a multiple of 2^(levels - 1). Default: the network's. */
  height?: number
  /** Of the images in pixels, a multiple of 2^(levels - 1). Default: the network's. */
  width?: number
  /** Context tokens of a sample. Needed for a network with cross-attention, and for no other. */
  contextLength?: number
  /**
   * Whether the weights are in a file of their own in the same folder, `<name>.onnx_data` beside `<name>.onnx`: ONNX's external data.
   * Default: where they make a model of 2 GiB, the most that an ONNX file holds.
   */
  externalData?: boolean
  /** Ends it between two parameters, with `aborted`; nothing is written then. Default: none. */
  signal?: AbortSignal
}

const onnxSchema = {
  height: integer(undefined, { min: 1 }),
  width: integer(undefined, { min: 1 }),
  contextLength: integer(undefined, { min: 1 }),
  externalData: boolean(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<OnnxOptions>

/** What the network is of. */
export interface OnnxMeaning {
  /** The output's name. */
  readonly output: string
  /** What x is, where it is not the state. */
  readonly input?: string
  /** What t is, where it is a float and not the timestep. */
  readonly time?: string
}

/** Where the weights come from, one after another. */
export interface OnnxWeights {
  /** In the order of the shape that it has in the graph. */
  read(slot: ParameterSlot): Float32Array | Promise<Float32Array>
  /** Called when all are written: throws where they are not those of one moment. */
  check?(): Promise<void>
}

/** Of a protobuf message. */
const messageBytes = 2 ** 31 - 1

/**
 * Writes the file, or both, atomically, and one parameter after another. Inputs: x float [n, inChannels, height, width], t int64 [n] (float where `time` says so),
 * with class labels y int64 [n], with cross-attention context float [n, contextLength, contextDim], with a vector that it needs vector float [n, vectorDim], with concatChannels concat float [n, concatChannels, height, width];
 * the output is called `output`, float [n, outChannels, height, width]. n is free. Resolves with the files' names.
 *
 * @param maxBytes of an ONNX file, for tests
 * @throws `invalid-argument`, `unknown-option`, `io`, `aborted`, and `unsupported` where `externalData` is false and the model has 2 GiB
 */
export async function exportOnnx(
  path: string,
  network: Network,
  weights: OnnxWeights,
  { output, input, time }: OnnxMeaning,
  options: OnnxOptions = {},
  maxBytes = messageBytes,
): Promise<string[]> {
  if (typeof path !== 'string' || path === '') throw invalidArgument('path', 'a path', path)
  if (endianness() !== 'LE') throw new DiffusionError('unsupported', 'ONNX is only written on little-endian machines')
  const o = parseOptions('exportOnnx', options, onnxSchema)
  const { height = network.imageSize, width = network.imageWidth ?? network.imageSize, contextLength } = o
  for (const [name, size] of Object.entries({ height, width })) {
    if (size % network.divisor !== 0) throw invalidArgument(name, `a multiple of ${network.divisor}`, size)
  }
  const { contextDim } = network
  if ((contextDim === undefined) !== (contextLength === undefined)) {
    const expected = contextDim ? 'a number, for a network with cross-attention' : 'nothing without cross-attention'
    throw invalidArgument('contextLength', expected, contextLength)
  }
  const graph = new OnnxGraph((slot) => weights.read(slot))
  const x = graph.imageInput('x', { height, width, channels: network.inChannels })
  const t = time ? graph.timeInput('t') : graph.indexInput('t')
  const conditioning = conditioningOf(network, {
    labels: () => graph.indexInput('y'),
    context: (channels) => graph.tokenInput('context', { length: contextLength!, channels }),
    vector: (channels) => (network.vectorIsOptional ? undefined : graph.vectorInput('vector', { channels })),
    concat: (channels) => graph.imageInput('concat', { height, width, channels }),
  })
  const estimate = network.selfCondition
    ? graph.imageInput('estimate', { height, width, channels: network.inChannels })
    : undefined
  graph.output(output, network.build({ graph, train: false }, x, t, { ...conditioning, estimate }))
  const { y, context, vector, concat } = conditioning
  const told = `${y ? '; y: class labels' : ''}${context ? '; context: tokens' : ''}${vector ? '; vector: vectors' : ''}${concat ? '; concat: maps' : ''}`
  const { nodes, initializers, inputs, outputs } = graph
  const model = {
    name: 'denoiser',
    producer: 'ddpm-native',
    doc: `x: ${input ?? 'noisy images'}, NCHW; t: ${time ?? 'timesteps, from 0'}${told}${estimate ? '; estimate: the last x_0, at first 0' : ''}. Predicts ${output}.`,
    ...{ nodes, initializers, inputs, outputs },
  }
  return writeOnnx(path, model, { ...o, maxBytes, check: weights.check?.bind(weights) })
}

interface WriteOptions extends Pick<OnnxOptions, 'externalData' | 'signal'> {
  readonly maxBytes?: number
  /** As of OnnxWeights. */
  readonly check?: () => Promise<void>
}

/** The model as one file, or as two: resolves with their names. Throws as exportOnnx. */
export async function writeOnnx(
  path: string,
  model: OnnxModel,
  { externalData, signal, maxBytes = messageBytes, check }: WriteOptions = {},
): Promise<string[]> {
  const whole = encodeModel(model)
  const each = () => {
    if (signal?.aborted) throw new DiffusionError('aborted', 'the export was aborted', { cause: signal.reason })
  }
  if (externalData ?? whole.length > maxBytes) {
    await checkTwoFiles(path)
    const initializers = placeOutside(model.initializers, dataNameOf(path))
    const graph = encodeModel({ ...model, initializers })
    checkSize(graph.length, maxBytes, 'its graph alone')
    await writeTwoFiles(path, graph, initializers.filter(isOutside), { each, check })
    return [path, dataFileOf(path)]
  }
  checkSize(whole.length, maxBytes, 'without externalData')
  await atomicWrite(path, async (file) => {
    for (const chunk of whole.chunks()) {
      each()
      await file.writeFile(await bytesOf(chunk))
    }
    await check?.()
  })
  return [path]
}

function checkSize(bytes: number, maxBytes: number, what: string): void {
  if (bytes <= maxBytes) return
  throw new DiffusionError(
    'unsupported',
    `an ONNX file holds at most ${maxBytes} bytes; this one, ${what}, needs more`,
    {
      argument: 'externalData',
      expected: `at most ${maxBytes} bytes`,
      received: String(bytes),
    },
  )
}
