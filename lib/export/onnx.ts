/** Writes a network as an ONNX model (https://onnx.ai), which other runtimes can execute. */
import { endianness } from 'node:os'
import { atomicWrite } from '../checkpoint/atomic-write'
import { DiffusionError, invalidArgument } from '../errors'
import { conditioningOf } from '../nn/conditions'
import type { Network } from '../nn/network'
import type { Banks } from '../nn/parameters'
import { integer, parseOptions, type SchemaOf } from '../options'
import { OnnxGraph } from './onnx-graph'
import { encodeModel } from './onnx-model'

/** Of exportOnnx. */
export interface OnnxOptions {
  /** Of the images in pixels, a multiple of 2^(levels - 1). Default: the network's. */
  height?: number
  /** Of the images in pixels, a multiple of 2^(levels - 1). Default: the network's. */
  width?: number
  /** Context tokens of a sample. Needed for a network with cross-attention, and for no other. */
  contextLength?: number
}

const onnxSchema = {
  height: integer(undefined, { min: 1 }),
  width: integer(undefined, { min: 1 }),
  contextLength: integer(undefined, { min: 1 }),
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

/** Of a protobuf message; larger models would have their weights in files beside the model's. */
const maxBytes = 2 ** 31 - 1

/**
 * Writes the file atomically, one parameter after another. Inputs: x float [n, inChannels, height, width], t int64 [n] (float where `time` says so),
 * with class labels y int64 [n], with cross-attention context float [n, contextLength, contextDim], with a vector that it needs vector float [n, vectorDim], with concatChannels concat float [n, concatChannels, height, width];
 * the output is called `output`, float [n, outChannels, height, width]. n is free.
 *
 * @param banks of the network's parameters
 * @throws `invalid-argument`, `unknown-option`, `io`, and `unsupported` for a model of 2 GiB or more
 */
export async function exportOnnx(
  path: string,
  network: Network,
  { flat, frozen }: Banks,
  { output, input, time }: OnnxMeaning,
  options: OnnxOptions = {},
): Promise<void> {
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
  const graph = new OnnxGraph((slot) => network.parameters.toGraph(slot.frozen ? frozen : flat, slot))
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
  const model = encodeModel({
    name: 'denoiser',
    producer: 'ddpm-native',
    doc: `x: ${input ?? 'noisy images'}, NCHW; t: ${time ?? 'timesteps, from 0'}${told}${estimate ? '; estimate: the last x_0, at first 0' : ''}. Predicts ${output}.`,
    ...pick(graph),
  })
  if (model.length > maxBytes) {
    throw new DiffusionError('unsupported', `an ONNX file holds at most ${maxBytes} bytes, this one would need more`, {
      argument: 'path',
      expected: `at most ${maxBytes} bytes`,
      received: String(model.length),
    })
  }
  await atomicWrite(path, async (file) => {
    for (const chunk of model.chunks()) await file.writeFile(chunk)
  })
}

function pick({ nodes, initializers, inputs, outputs }: OnnxGraph) {
  return { nodes, initializers, inputs, outputs }
}
