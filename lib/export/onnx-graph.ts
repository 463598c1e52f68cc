/**
 * A graph builder that writes down ONNX nodes in place of our own, so that a network's one definition gives both. Maps
 * [n, h, w, c] become ONNX's [n, c, h, w]; vectors [n, 1, 1, c], which come from timesteps and labels, become [n, c].
 * The number of samples stays open: `dims` has a 1 for it.
 */
import { DiffusionError } from '../errors'
import type { LinearSlots, ParameterSlot, Value } from '../graph'
import type { FirOptions } from '../graph-values'
import type { Dims } from '../native'
import type { NetworkGraph } from '../nn/network'
import type { Attribute, ElementType, Initializer, OnnxNode, Port } from './onnx-model'

/** How a value lies in ONNX. `index`: integers [n]. */
type Form = 'map' | 'vector' | 'index' | 'parameter'

interface Entry {
  readonly name: string
  readonly form: Form
}

/** The name of the free dim, the number of samples. */
const batch = 'n'

export class OnnxGraph implements NetworkGraph {
  readonly nodes: OnnxNode[] = []
  readonly inputs: Port[] = []
  readonly outputs: Port[] = []
  readonly #initializers = new Map<string, Initializer>()
  /** Names of constants by what they hold. */
  readonly #constants = new Map<string, string>()
  /** By the ids of values. */
  readonly #entries: Entry[] = []
  readonly #slots = new Map<string, ParameterSlot>()

  /** `weightOf` makes a parameter's numbers, in the order of its shape in the graph, when they are written. */
  constructor(private readonly weightOf: (slot: ParameterSlot) => Float32Array | Promise<Float32Array>) {}

  get initializers(): readonly Initializer[] {
    return [...this.#initializers.values()]
  }

  /** Float images. */
  imageInput(name: string, o: { height: number; width: number; channels: number }): Value {
    const { height, width, channels } = o
    this.inputs.push({ name, type: 'float', dims: [batch, channels, height, width] })
    return this.#value(name, [1, height, width, channels], 'map')
  }

  /** One int64 a sample. */
  indexInput(name: string): Value {
    this.inputs.push({ name, type: 'int64', dims: [batch] })
    return this.#value(name, [1, 1, 1, 1], 'index')
  }

  /** One float a sample. */
  timeInput(name: string): Value {
    this.inputs.push({ name, type: 'float', dims: [batch] })
    return this.#value(name, [1, 1, 1, 1], 'index')
  }

  /** Tokens of cross-attention, [n, length, channels]; a map of height 1 in here. */
  tokenInput(name: string, o: { length: number; channels: number }): Value {
    const { length, channels } = o
    this.inputs.push({ name, type: 'float', dims: [batch, length, channels] })
    const columns = this.#node('Transpose', [name], { perm: [0, 2, 1] })
    return this.#value(this.#reshape(columns, [0, channels, 1, length]), [1, 1, length, channels], 'map')
  }

  /** A vector of each sample, [n, channels]. */
  vectorInput(name: string, { channels }: { channels: number }): Value {
    this.inputs.push({ name, type: 'float', dims: [batch, channels] })
    return this.#value(name, [1, 1, 1, channels], 'vector')
  }

  /** Makes a map an output of the model. */
  output(name: string, x: Value): void {
    const [, height, width, channels] = x.dims
    this.nodes.push({ op: 'Identity', inputs: [this.#name(x)], outputs: [name], attributes: {} })
    this.outputs.push({ name, type: 'float', dims: [batch, channels, height, width] })
  }

  parameter(slot: ParameterSlot): Value {
    this.#slots.set(slot.name, slot)
    const shape = slot.graphShape ?? slot.shape
    const [k, c = 1, r = 1, s = 1] = shape
    return this.#value(slot.name, shape.length === 1 ? [1, 1, 1, k] : [k, r, s, c], 'parameter')
  }

  conv2d(x: Value, weight: Value, bias: Value | undefined, o: { stride: number; padding: readonly number[] }): Value {
    const { stride, padding } = o
    const [, h, w] = x.dims
    const [k, r, s] = weight.dims
    const [top, left, bottom, right] = padding
    const extent = (pixels: number, kernel: number) => Math.floor((pixels - kernel) / stride) + 1
    const inputs = [this.#name(x), this.#parameter(weight)]
    if (bias) inputs.push(this.#parameter(bias))
    const y = this.#node('Conv', inputs, { kernel_shape: [r, s], strides: [stride, stride], pads: padding })
    return this.#value(y, [1, extent(h + top + bottom, r), extent(w + left + right, s), k], 'map')
  }

  linear(x: Value, weight: Value, bias?: Value): Value {
    const [outs, , , ins] = weight.dims
    const [n, h, w] = x.dims
    const flat = this.#form(x) === 'vector'
    const inputs = [this.#name(x), this.#parameter(weight, flat ? [outs, ins] : [outs, ins, 1, 1])]
    if (bias) inputs.push(this.#parameter(bias))
    const y = flat ? this.#node('Gemm', inputs, { transB: 1 }) : this.#node('Conv', inputs, { kernel_shape: [1, 1] })
    return this.#value(y, [n, h, w, outs], this.#form(x))
  }

  /** One by one, by the names that they have in the state_dict. */
  linears(x: Value, layers: readonly LinearSlots[]): Value[] {
    return layers.map(({ weight, bias }) => this.linear(x, this.parameter(weight), bias && this.parameter(bias)))
  }

  /** The groups are taken for the channels of an instance norm, which has no scale and shift of its own. */
  groupNorm(x: Value, gamma: Value, beta: Value, { groups, eps }: { groups: number; eps: number }): Value {
    const channels = x.dims[3]
    const [ones, zeros] = [1, 0].map((v) => this.#floats([groups], new Float32Array(groups).fill(v)))
    const grouped = this.#reshape(this.#name(x), [0, groups, -1])
    const normalized = this.#node('InstanceNormalization', [grouped, ones, zeros], { epsilon: { float: eps } })
    const perChannel = this.#form(x) === 'vector' ? [channels] : [channels, 1, 1]
    const scaled = this.#node('Mul', [
      this.#reshape(normalized, this.#shape(x.dims, this.#form(x))),
      this.#parameter(gamma, perChannel),
    ])
    return this.#like(x, this.#node('Add', [scaled, this.#parameter(beta, perChannel)]))
  }

  /** Of maps. ONNX normalizes the last axes only. */
  layerNorm(x: Value, gamma: Value, beta: Value, { eps }: { eps: number }): Value {
    const last = this.#node('Transpose', [this.#name(x)], { perm: [0, 2, 3, 1] })
    const inputs = [last, this.#parameter(gamma), this.#parameter(beta)]
    const y = this.#node('LayerNormalization', inputs, { axis: -1, epsilon: { float: eps } })
    return this.#like(x, this.#node('Transpose', [y], { perm: [0, 3, 1, 2] }))
  }

  /** Of maps. */
  rmsNorm(x: Value, gamma: Value, { eps }: { eps: number }): Value {
    const channels = x.dims[3]
    const scalar = (v: number) => this.#floats([], Float32Array.of(v))
    const squares = this.#node('Mul', [this.#name(x), this.#name(x)])
    const length = this.#node('Sqrt', [this.#node('ReduceSum', [squares, this.#integers([1])])])
    const unit = this.#node('Div', [this.#name(x), this.#node('Max', [length, scalar(eps)])])
    const scaled = this.#node('Mul', [unit, scalar(Math.sqrt(channels))])
    return this.#like(x, this.#node('Mul', [scaled, this.#parameter(gamma, [channels, 1, 1])]))
  }

  attention(q: Value, k: Value, v: Value, o: { heads: number; scale: number; mask?: Value }): Value {
    if (o.mask) throw new DiffusionError('unsupported', 'attention with a mask is not exported')
    const split = (x: Value) => this.#reshape(this.#name(x), [0, o.heads, x.dims[3] / o.heads, x.dims[1] * x.dims[2]])
    return this.#attend([split(q), split(k), split(v)], [1, q.dims[1], q.dims[2], v.dims[3]], o.scale)
  }

  attentionQkv(qkv: Value, o: { heads: number; scale: number; order: 'heads-first' | 'qkv-first' }): Value {
    const [, h, w, c] = qkv.dims
    const [channels, pixels] = [c / 3, h * w]
    const perHead = [0, o.heads, channels / o.heads, pixels]
    const parts =
      o.order === 'heads-first'
        ? this.#split(this.#reshape(this.#name(qkv), [0, o.heads, 3 * perHead[2], pixels]), 3, 2)
        : this.#split(this.#name(qkv), 3, 1).map((part) => this.#reshape(part, perHead))
    return this.#attend(parts, [1, h, w, channels], o.scale)
  }

  /** q, k and v [n, heads, d, pixels] to a map of `dims`. */
  #attend([q, k, v]: readonly string[], dims: Dims, scale: number): Value {
    const transposed = (x: string) => this.#node('Transpose', [x], { perm: [0, 1, 3, 2] })
    const scores = this.#node('MatMul', [transposed(q), k])
    const scaled = this.#node('Mul', [scores, this.#floats([], Float32Array.of(scale))])
    const weights = this.#node('Softmax', [scaled], { axis: -1 })
    const y = this.#node('MatMul', [v, transposed(weights)])
    return this.#value(this.#reshape(y, this.#shape(dims, 'map')), dims, 'map')
  }

  linearAttention(q: Value, k: Value, v: Value, o: { heads: number; scale: number; querySoftmax: boolean }): Value {
    const split = (x: Value) => this.#reshape(this.#name(x), [0, o.heads, x.dims[3] / o.heads, x.dims[1] * x.dims[2]])
    const weights = this.#node('Softmax', [split(k)], { axis: -1 })
    const queries = o.querySoftmax ? this.#node('Softmax', [split(q)], { axis: -2 }) : split(q)
    const scaled = this.#node('Mul', [queries, this.#floats([], Float32Array.of(o.scale))])
    const context = this.#node('MatMul', [split(v), this.#node('Transpose', [weights], { perm: [0, 1, 3, 2] })])
    return this.#like(q, this.#reshape(this.#node('MatMul', [context, scaled]), this.#shape(q.dims, 'map')))
  }

  /** Of maps. */
  prependTokens(x: Value, table: Value, { row }: { row: number }): Value {
    const [, h, w, c] = x.dims
    const count = table.dims[3] / c
    const picked = this.#node('Gather', [this.#parameter(table), this.#integers([row])], { axis: 0 })
    const tokens = this.#node('Transpose', [this.#reshape(picked, [1, count, 1, c])], { perm: [0, 3, 2, 1] })
    const shape = this.#node('Shape', [this.#name(x)])
    const samples = this.#node('Slice', [shape, this.#integers([0]), this.#integers([1])])
    const all = this.#node('Concat', [samples, this.#integers([c, 1, count])], { axis: 0 })
    const pixels = this.#reshape(this.#name(x), [0, c, 1, h * w])
    const y = this.#node('Concat', [this.#node('Expand', [tokens, all]), pixels], { axis: 3 })
    return this.#value(y, [1, 1, count + h * w, c], 'map')
  }

  silu(x: Value): Value {
    return this.#like(x, this.#node('Mul', [this.#name(x), this.#node('Sigmoid', [this.#name(x)])]))
  }

  gelu(x: Value): Value {
    return this.#like(x, this.#gelu(this.#name(x)))
  }

  tanh(x: Value): Value {
    return this.#like(x, this.#node('Tanh', [this.#name(x)]))
  }

  geglu(x: Value): Value {
    const [n, h, w, c] = x.dims
    const [value, gate] = this.#split(this.#name(x), 2, 1)
    return this.#value(this.#node('Mul', [value, this.#gelu(gate)]), [n, h, w, c / 2], this.#form(x))
  }

  /** x/2 (1 + erf(x / sqrt(2))). */
  #gelu(x: string): string {
    const scalar = (v: number) => this.#floats([], Float32Array.of(v))
    const erf = this.#node('Erf', [this.#node('Mul', [x, scalar(Math.SQRT1_2)])])
    return this.#node('Mul', [this.#node('Mul', [x, scalar(0.5)]), this.#node('Add', [erf, scalar(1)])])
  }

  add(a: Value, b: Value): Value {
    return this.#like(a, this.#node('Add', [this.#name(a), this.#name(b)]))
  }

  addSample(x: Value, e: Value): Value {
    return this.#like(x, this.#node('Add', [this.#name(x), this.#spread(this.#name(e))]))
  }

  scaleShift(x: Value, e: Value): Value {
    const [scale, shift] = this.#split(this.#name(e), 2, 1).map((part) => this.#spread(part))
    const factor = this.#node('Add', [scale, this.#floats([], Float32Array.of(1))])
    return this.#like(x, this.#node('Add', [this.#node('Mul', [this.#name(x), factor]), shift]))
  }

  affine(x: Value, { scale, shift = 0 }: { scale: number; shift?: number }): Value {
    const scalar = (v: number) => this.#floats([], Float32Array.of(v))
    const scaled = this.#node('Mul', [this.#name(x), scalar(scale)])
    return this.#like(x, shift === 0 ? scaled : this.#node('Add', [scaled, scalar(shift)]))
  }

  divSample(x: Value, d: Value | number): Value {
    if (typeof d === 'number') {
      return this.#like(x, this.#node('Div', [this.#name(x), this.#floats([], Float32Array.of(d))]))
    }
    const divisor = this.#reshape(this.#number(d), this.#form(x) === 'vector' ? [-1, 1] : [-1, 1, 1, 1])
    return this.#like(x, this.#node('Div', [this.#name(x), divisor]))
  }

  concat(values: readonly Value[]): Value {
    const [n, h, w] = values[0].dims
    const channels = values.reduce((sum, { dims }) => sum + dims[3], 0)
    const y = this.#node(
      'Concat',
      values.map((value) => this.#name(value)),
      { axis: 1 },
    )
    return this.#value(y, [n, h, w, channels], this.#form(values[0]))
  }

  slice(x: Value, { start, count }: { start: number; count: number }): Value {
    const [n, h, w] = x.dims
    const bounds = [[start], [start + count], [1]].map((v) => this.#integers(v))
    return this.#value(this.#node('Slice', [this.#name(x), ...bounds]), [n, h, w, count], this.#form(x))
  }

  upsampleNearest(x: Value, { factor }: { factor: number }): Value {
    const [n, h, w, c] = x.dims
    const scales = this.#floats([4], Float32Array.of(1, 1, factor, factor))
    const y = this.#node('Resize', [this.#name(x), '', scales], {
      mode: 'nearest',
      coordinate_transformation_mode: 'asymmetric',
      nearest_mode: 'floor',
    })
    return this.#value(y, [n, h * factor, w * factor, c], 'map')
  }

  avgPool(x: Value, { kernel }: { kernel: number }): Value {
    const [n, h, w, c] = x.dims
    const y = this.#node('AveragePool', [this.#name(x)], { kernel_shape: [kernel, kernel], strides: [kernel, kernel] })
    return this.#value(y, [n, Math.floor(h / kernel), Math.floor(w / kernel), c], 'map')
  }

  /** Zeros come between the pixels by a transposed convolution with a single one. */
  firResample(x: Value, { taps, up = 1, down = 1, padding }: FirOptions): Value {
    const [n, h, w, c] = x.dims
    const [top, left, bottom, right] = padding
    const size = taps.length
    let z = this.#name(x)
    if (up > 1) {
      const ones = this.#floats([c, 1, 1, 1], new Float32Array(c).fill(1))
      z = this.#node('ConvTranspose', [z, ones], { group: c, strides: [up, up], output_padding: [up - 1, up - 1] })
    }
    z = this.#node('Pad', [z, this.#integers([0, 0, top, left, 0, 0, bottom, right])])
    const filter = taps.flatMap((row) => taps.map((column) => row * column))
    const weights = this.#floats(
      [c, 1, size, size],
      Float32Array.from({ length: c * size ** 2 }, (_, i) => filter[i % size ** 2]),
    )
    const y = this.#node('Conv', [z, weights], { group: c, kernel_shape: [size, size], strides: [down, down] })
    const extent = (pixels: number, pad: number) => Math.floor((pixels * up + pad - size) / down) + 1
    return this.#value(y, [n, extent(h, top + bottom), extent(w, left + right), c], 'map')
  }

  embedding(index: Value, table: Value): Value {
    const y = this.#node('Gather', [this.#parameter(table), this.#name(index)], { axis: 0 })
    return this.#value(y, [1, 1, 1, table.dims[3]], 'vector')
  }

  /** Products are rounded to float32 where kernels/ops.h FourierEmbedding rounds them. */
  fourierEmbedding(t: Value, weight: Value, { log, sinFirst }: { log: boolean; sinFirst: boolean }): Value {
    const column = this.#node('Unsqueeze', [this.#number(t), this.#integers([1])])
    const place = log ? this.#node('Log', [column]) : column
    const scalar = (v: number) => this.#floats([], Float32Array.of(v))
    const turns = this.#node('Mul', [this.#node('Mul', [place, this.#parameter(weight)]), scalar(2)])
    const y = this.#waves(this.#node('Mul', [turns, scalar(Math.PI)]), sinFirst)
    return this.#value(y, [1, 1, 1, 2 * weight.dims[3]], 'vector')
  }

  /** Frequencies are rounded to float32 where kernels/ops.h TimestepEmbedding rounds them. */
  timestepEmbedding(
    t: Value,
    { dim, maxPeriod, freqShift, sinFirst }: { dim: number; maxPeriod: number; freqShift: number; sinFirst: boolean },
  ): Value {
    const half = Math.floor(dim / 2)
    const { fround } = Math
    const step = fround(-Math.log(maxPeriod))
    const frequencies = Float32Array.from({ length: half }, (_, i) =>
      Math.exp(fround(fround(step * i) / fround(half - freqShift))),
    )
    const column = this.#node('Unsqueeze', [this.#number(t), this.#integers([1])])
    const waves = this.#waves(this.#node('Mul', [column, this.#floats([half], frequencies)]), sinFirst)
    const y = dim % 2 ? this.#node('Pad', [waves, this.#integers([0, 0, 0, 1])]) : waves
    return this.#value(y, [1, 1, 1, dim], 'vector')
  }

  dropout(): Value {
    throw new DiffusionError('internal', 'an exported network is not built for training')
  }

  recomputed<T>(build: () => T): T {
    return build()
  }

  // ---- pieces ------------------------------------------------------------------------------------------------------

  #value(name: string, dims: Dims, form: Form): Value {
    return { id: this.#entries.push({ name, form }) - 1, dims }
  }

  #like(x: Value, name: string): Value {
    return this.#value(name, x.dims, this.#form(x))
  }

  #name({ id }: Value): string {
    return this.#entries[id].name
  }

  #form({ id }: Value): Form {
    return this.#entries[id].form
  }

  /** What Reshape makes of a value again; 0 keeps the number of samples. */
  #shape([, h, w, c]: Dims, form: Form): number[] {
    return form === 'vector' ? [0, c] : [0, c, h, w]
  }

  /** Adds a node of one output. */
  #node(op: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    const output = `v${this.nodes.length}`
    this.nodes.push({ op, inputs, outputs: [output], attributes })
    return output
  }

  /** Equal parts of an axis. */
  #split(x: string, parts: number, axis: number): string[] {
    const outputs = Array.from({ length: parts }, (_, i) => `v${this.nodes.length}.${i}`)
    this.nodes.push({ op: 'Split', inputs: [x], outputs, attributes: { axis } })
    return outputs
  }

  /** Integers as floats, [n]. */
  #number(index: Value): string {
    return this.#node('Cast', [this.#name(index)], { to: 1 })
  }

  #waves(angles: string, sinFirst: boolean): string {
    const order = sinFirst ? ['Sin', 'Cos'] : ['Cos', 'Sin']
    return this.#node(
      'Concat',
      order.map((op) => this.#node(op, [angles])),
      { axis: 1 },
    )
  }

  #reshape(x: string, shape: readonly number[]): string {
    return this.#node('Reshape', [x, this.#integers(shape)])
  }

  /** A vector, to be spread over a map. */
  #spread(e: string): string {
    return this.#node('Unsqueeze', [e, this.#integers([2, 3])])
  }

  /** A parameter as an initializer; `dims` in place of its own shape may add or leave out dims of 1. */
  #parameter(value: Value, dims?: readonly number[]): string {
    const name = this.#name(value)
    const slot = this.#slots.get(name)!
    const shape = dims ?? slot.graphShape ?? slot.shape
    const elements = shape.reduce((product, extent) => product * extent, 1)
    const known = this.#initializers.get(name)
    if (known && known.dims.join() !== shape.join()) {
      throw new DiffusionError('unsupported', `parameter '${name}' is used in two shapes, which can't be exported`)
    }
    const make = async () => bytesOf(await this.weightOf(slot))
    const data = { length: 4 * elements, make }
    this.#initializers.set(name, { name, type: 'float', dims: shape, data, isWeight: true })
    return name
  }

  #integers(values: readonly number[]): string {
    return this.#constant('int64', [values.length], BigInt64Array.from(values, BigInt))
  }

  #floats(dims: readonly number[], values: Float32Array): string {
    return this.#constant('float', dims, values)
  }

  /** The same constant asked for twice is there once. */
  #constant(type: ElementType, dims: readonly number[], values: Float32Array | BigInt64Array): string {
    const key = `${type} [${dims}] ${values}`
    let name = this.#constants.get(key)
    if (name === undefined) {
      name = `constant.${this.#constants.size}`
      const data = bytesOf(values)
      this.#constants.set(key, name)
      const lazy = { length: data.length, make: () => data }
      this.#initializers.set(name, { name, type, dims, data: lazy, isWeight: false })
    }
    return name
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
