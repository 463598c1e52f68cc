/**
 * The typed graph builder that models are written against. A method is a node; what it returns are values, which know
 * their dims [n, h, w, c]. Shapes are inferred and checked in native/graph when the node is added. Nothing is computed
 * until a compiled Program runs.
 *
 * Numbers that pick rows of a table are clamped to it by the kernels; those that a Program is bound to as an Int32Array are
 * refused there instead.
 *
 * Every op's name, inputs (in order, -1 when absent) and attributes are listed here and nowhere else.
 */
import { GraphParameters } from './graph-parameters'
import type { ElementLoss, FirOptions, PoolOptions, Value } from './graph-values'
import { type Dims, type NativeGraph, native, type ValueId } from './native'
import { joined, type LinearSlots, type ParameterSlot, type TablePlace } from './parameter-slot'

export { type ElementLoss, type LossType, lossTypes, type Value } from './graph-values'
export type { LinearSlots, ParameterSlot } from './parameter-slot'

/** One of the ranks that share the optimizer's state. */
export interface Shard {
  readonly rank: number
  readonly ranks: number
}
const whole: Shard = { rank: 0, ranks: 1 }

interface UpdateOf {
  readonly count: number
  readonly ema?: boolean
  readonly shard?: Shard
}

export class Graph {
  readonly native: NativeGraph = native.createGraph()
  readonly #parameters = new GraphParameters()
  readonly #integers = new Map<ValueId, string>()
  #recomputing = false
  /** Numbers that are part of the graph, by the names of the inputs that a Program binds them to. */
  readonly constants = new Map<string, Float32Array | Int32Array>()
  /** For each i32 input by its name whose numbers pick rows of tables, the rows there are. */
  readonly rows = new Map<string, number>()

  #add(
    op: string,
    inputs: readonly (Value | undefined)[],
    attributes: Parameters<NativeGraph['add']>[2] = {},
  ): Value[] {
    const ids = this.native.add(
      op,
      inputs.map((v) => v?.id ?? -1),
      attributes,
    )
    return ids.map((id) => ({ id, dims: this.native.dims(id) }))
  }

  #one(op: string, inputs: readonly (Value | undefined)[], attributes?: Parameters<NativeGraph['add']>[2]): Value {
    return this.#add(op, inputs, attributes)[0]
  }

  /** A buffer that is bound by this name at each run. */
  input(name: string, dims: Dims, dtype: 'f32' | 'i32' = 'f32'): Value {
    const value = this.#one('input', [], { name, dims, dtype })
    if (dtype === 'i32') this.#integers.set(value.id, name)
    return value
  }

  /** Numbers of the graph's own. */
  constant(data: Float32Array | Int32Array, dims: Dims): Value {
    const name = `constant ${this.constants.size}`
    this.constants.set(name, data)
    return this.input(name, dims, data instanceof Int32Array ? 'i32' : 'f32')
  }

  #picks(index: Value, table: Value): void {
    this.#picksOf(index, table.dims[0])
  }

  #picksOf(index: Value, rows: number): void {
    const name = this.#integers.get(index.id)
    if (name !== undefined) this.rows.set(name, Math.min(rows, this.rows.get(name) ?? rows))
  }

  /** The same slot asked for twice is the same value. */
  parameter(slot: ParameterSlot): Value {
    return this.#parameters.value(slot, (attributes) => this.#one('parameter', [], attributes))
  }

  /** padding: [top, left, bottom, right]. */
  conv2d(x: Value, weight: Value, bias: Value | undefined, o: { stride: number; padding: readonly number[] }): Value {
    return this.#one('conv2d', [x, weight, bias], { stride: o.stride, padding: o.padding })
  }

  /** y[..., k] = sum_c x[..., c] weight[k, c] + bias[k]. */
  linear(x: Value, weight: Value, bias?: Value): Value {
    return this.#one('linear', [x, weight, bias])
  }

  /** Several linear layers of one x: one product, and slices of it, where their parameters lie side by side. */
  linears(x: Value, layers: readonly LinearSlots[]): Value[] {
    const weight = joined(layers.map((layer) => layer.weight))
    const biases = layers.flatMap(({ bias }) => bias ?? [])
    const bias = joined(biases)
    if (!weight || (biases.length > 0 && (!bias || biases.length < layers.length))) {
      return layers.map((layer) => {
        return this.linear(x, this.parameter(layer.weight), layer.bias && this.parameter(layer.bias))
      })
    }
    const all = this.linear(x, this.parameter(weight), bias && this.parameter(bias))
    let start = 0
    return layers.map((layer) => {
      const count = layer.weight.shape[0]
      start += count
      return this.slice(all, { start: start - count, count })
    })
  }

  groupNorm(x: Value, gamma: Value, beta: Value, o: { groups: number; eps: number }): Value {
    return this.#one('groupNorm', [x, gamma, beta], o)
  }

  layerNorm(x: Value, gamma: Value, beta: Value, o: { eps: number }): Value {
    return this.#one('layerNorm', [x, gamma, beta], o)
  }

  /** x sqrt(c) / max(|x|, eps) * gamma on the channels of every pixel. */
  rmsNorm(x: Value, gamma: Value, o: { eps: number }): Value {
    return this.#one('rmsNorm', [x, gamma], o)
  }

  /**
   * Tokens are pixels. q [n, h, w, heads*d], k and v of one length. scale: of the scores, usually 1/sqrt(d). mask
   * [1 or n, h, w, keys]: 0 where a query does not attend to a key; one without any weighs all keys alike. No gradient for it.
   */
  attention(q: Value, k: Value, v: Value, { mask, ...o }: { heads: number; scale: number; mask?: Value }): Value {
    return this.#one('attention', [q, k, v, mask], o)
  }

  /**
   * q, k and v packed on the channels. order 'heads-first': [head][q k v][d] (openaimodel's QKVAttentionLegacy);
   * 'qkv-first': [q k v][head][d] (QKVAttention).
   */
  attentionQkv(qkv: Value, o: { heads: number; scale: number; order: 'heads-first' | 'qkv-first' }): Value {
    return this.#one('attentionQkv', [qkv], o)
  }

  /**
   * softmax(k over the tokens) times v as one matrix a head, then the queries times that, by `scale`; kernels/ops.h
   * LinearAttention. querySoftmax: q becomes its softmax over the channels of a head first.
   */
  linearAttention(q: Value, k: Value, v: Value, o: { heads: number; scale: number; querySoftmax: boolean }): Value {
    return this.#one('linearAttention', [q, k, v], o)
  }

  /** Row `row` of a table [v, m * c] as m tokens before the pixels of x [n, h, w, c]: [n, 1, m + h * w, c]. */
  prependTokens(x: Value, table: Value, o: { row: number }): Value {
    return this.#one('prependTokens', [x, table], o)
  }

  silu(x: Value): Value {
    return this.#one('silu', [x])
  }

  /** The exact one, with erf. */
  gelu(x: Value): Value {
    return this.#one('gelu', [x])
  }

  /** x sigmoid(1.702 x). */
  quickGelu(x: Value): Value {
    return this.#one('quickGelu', [x])
  }

  /** max(x, 0). */
  relu(x: Value): Value {
    return this.#one('relu', [x])
  }

  tanh(x: Value): Value {
    return this.#one('tanh', [x])
  }

  /** x [.., 2c]: x[:c] * gelu(x[c:]). */
  geglu(x: Value): Value {
    return this.#one('geglu', [x])
  }

  add(a: Value, b: Value): Value {
    return this.#one('add', [a, b])
  }

  /** x + e, e [n, 1, 1, c] spread over the pixels. */
  addSample(x: Value, e: Value): Value {
    return this.#one('addSample', [x, e])
  }

  /** x * (1 + e[:c]) + e[c:], e [n, 1, 1, 2c] spread over the pixels. */
  scaleShift(x: Value, e: Value): Value {
    return this.#one('scaleShift', [x, e])
  }

  /** x / d, d [n, 1, 1, 1] (f32 or i32, without a gradient), or a number for all. */
  divSample(x: Value, d: Value | number): Value {
    const divisor = typeof d === 'number' ? this.constant(Float32Array.of(d), [1, 1, 1, 1]) : d
    return this.#one('divSample', [x, divisor])
  }

  /** y = scale x + shift, the same for all elements. */
  affine(x: Value, { scale, shift = 0 }: { scale: number; shift?: number }): Value {
    const [n, height, width, channels] = x.dims
    const row = this.constant(new Int32Array(n), [n, 1, 1, 1])
    const number = (v: number) => this.constant(Float32Array.of(v), [1, 1, 1, 1])
    const size = height * width * channels
    const ones = shift === 0 ? undefined : this.constant(new Float32Array(size).fill(1), [1, 1, 1, size])
    const y = this.timestepAffine(this.toNchw(x), number(scale), row, ones, ones && number(shift))
    return this.toNhwc(y, { channels, height, width })
  }

  /** On the channels. */
  concat(values: readonly Value[]): Value {
    return this.#one('concat', values)
  }

  /** Channels [start, start + count). */
  slice(x: Value, o: { start: number; count: number }): Value {
    return this.#one('slice', [x], o)
  }

  /** The tokens (pixels) of a, then those of b: [n, h, w, c] and [n, h', w', c] to [n, 1, h w + h' w', c]. */
  concatTokens(a: Value, b: Value): Value {
    return this.#one('concatTokens', [a, b])
  }

  /** height * width tokens from `start` on, as [n, height, width, c]. */
  sliceTokens(x: Value, o: { start: number; height: number; width: number }): Value {
    return this.#one('sliceTokens', [x], o)
  }

  upsampleNearest(x: Value, o: { factor: number }): Value {
    return this.#one('upsampleNearest', [x], o)
  }

  /** Window and stride `kernel`. */
  avgPool(x: Value, o: { kernel: number }): Value {
    return this.#one('avgPool', [x], o)
  }

  /** The largest of each window: kernels/ops.h Pool. No gradient. */
  maxPool(x: Value, { kernel, stride, padding }: PoolOptions): Value {
    return this.#one('maxPool', [x], { kernel, stride, padding })
  }

  /** The mean of each window's pixels, of which the padding is none: kernels/ops.h Pool. No gradient. */
  meanPool(x: Value, { kernel, stride, padding }: PoolOptions): Value {
    return this.#one('meanPool', [x], { kernel, stride, padding })
  }

  /** torch's interpolate(mode='bilinear', align_corners=False): kernels/ops.h ResizeBilinear. No gradient. */
  resizeBilinear(x: Value, { height, width }: { height: number; width: number }): Value {
    return this.#one('resizeBilinear', [x], { height, width })
  }

  /**
   * A separable filter of at most 8 taps, in the order in which they meet the pixels, over x with up - 1 zeros after each pixel;
   * of the result every down-th place is kept. padding: [top, left, bottom, right], negative to leave out. kernels/ops.h
   * FirResample.
   */
  firResample(x: Value, o: FirOptions): Value {
    return this.#one('firResample', [x], { taps: o.taps, up: o.up ?? 1, down: o.down ?? 1, padding: o.padding })
  }

  /** [n, 1, 1, d] with every sample as CHW -> [n, h, w, c]. */
  toNhwc(x: Value, o: { channels: number; height: number; width: number }): Value {
    return this.#one('toNhwc', [x], o)
  }

  /** [n, h, w, c] -> [n, 1, 1, d] with every sample as CHW. */
  toNchw(x: Value): Value {
    return this.#one('toNchw', [x])
  }

  /** The elements in their order, as many in other dims. */
  reshape(x: Value, dims: Dims): Value {
    return this.#one('reshape', [x], { dims })
  }

  /** index [n, h, w, 1] i32, table [v, c] -> [n, h, w, c]. */
  embedding(index: Value, table: Value): Value {
    this.#picks(index, table)
    return this.#one('embedding', [index, table])
  }

  /**
   * t [n, 1, 1, 1] i32 or f32, weight [c] -> [n, 1, 1, 2c], sines and cosines of 2 pi weight t, or with `log` of its logarithm:
   * kernels/ops.h FourierEmbedding. No gradient.
   */
  fourierEmbedding(t: Value, weight: Value, o: { log: boolean; sinFirst: boolean }): Value {
    return this.#one('fourierEmbedding', [t, weight], o)
  }

  /** t [n, 1, 1, 1] i32 or f32 -> [n, 1, 1, dim]; kernels/ops.h TimestepEmbedding. */
  timestepEmbedding(t: Value, o: { dim: number; maxPeriod: number; freqShift: number; sinFirst: boolean }): Value {
    return this.#one('timestepEmbedding', [t], o)
  }

  /** rng: i32 [1, 1, 1, 4], seed low, seed high, step, 0. `layer` tells the masks of one step apart. */
  dropout(x: Value, rng: Value, o: { p: number; layer: number }): Value {
    return this.#one('dropout', [x, rng], o)
  }

  /** x as narrow numbers hold it, and so its gradient, in a program of precision fp16 or bf16 that holds some; else x. */
  round(x: Value): Value {
    return this.#one('round', [x])
  }

  /** x, whose gradient goes to `through` of the same dims in its place, or nowhere: a straight-through estimate, or torch's detach. */
  straightThrough(x: Value, through?: Value): Value {
    return this.#one('straightThrough', [x, through])
  }

  /** One value a sample, the mean over the rest: [n, 1, 1, 1]. kernels/ops.h, Losses; delta above 0, default 1. */
  loss(pred: Value, target: Value, { type, delta = 1 }: ElementLoss): Value {
    return this.#one('loss', [pred, target], { type, delta })
  }

  /** -log softmax(logits)[label], logits [n, 1, 1, k], label i32 [n, 1, 1, 1]: [n, 1, 1, 1]. */
  crossEntropy(logits: Value, label: Value): Value {
    this.#picksOf(label, logits.dims[3])
    return this.#one('crossEntropy', [logits, label])
  }

  /** The loss without any mean, in the dims of pred. No gradient. */
  elementLoss(pred: Value, target: Value, { type, delta = 1 }: ElementLoss): Value {
    return this.#one('elementLoss', [pred, target], { type, delta })
  }

  /** sum_n x[n] weight[n], all [n, 1, 1, 1] -> [1, 1, 1, 1]. */
  weightedSum(x: Value, weight: Value): Value {
    return this.#one('weightedSum', [x, weight])
  }

  /** a[t]*x + b[t]*z on flat samples [n, 1, 1, d]; a, b [T, 1, 1, 1], t i32 [n, 1, 1, 1]; z may be [1, 1, 1, d]. */
  timestepAffine(x: Value, a: Value, t: Value, z?: Value, b?: Value): Value {
    this.#picks(t, a)
    return this.#one('timestepAffine', [x, z, a, b, t])
  }

  /** table[t]: [n, 1, 1, 1]. */
  extract(table: Value, t: Value): Value {
    this.#picks(t, table)
    return this.#one('extract', [table, t])
  }

  /**
   * The fused posterior step on flat samples; kernels/ops.h PosteriorStep. table [T, 1, 1, 8]. Either `noise` is given, or
   * it is drawn from { rng, sample, step } (i32 [1,1,1,4], [n,1,1,1], [n,1,1,1]), or there is none. `scale` [n, 1, 1, 1]
   * divides x0 before it is clipped.
   */
  posteriorStep(
    x: Value,
    out: Value,
    table: Value,
    t: Value,
    o: { clip: boolean; scale?: Value; noise?: Value; draw?: { rng: Value; sample: Value; step: Value } },
  ): { y: Value; x0: Value } {
    this.#picks(t, table)
    const { clip, scale, noise, draw } = o
    const [y, x0] = this.#add('posteriorStep', [x, out, table, t, noise, draw?.rng, draw?.sample, draw?.step, scale], {
      clip,
    })
    return { y, x0 }
  }

  /**
   * A quantile of the absolute values of each sample, between `least` and `most`: `ratio` 0 is the least value, 1 the greatest;
   * between two it is on the line between them, as torch.quantile has it. x flat to [n, 1, 1, 1]. No gradient.
   */
  absQuantile(x: Value, o: { ratio: number; least: number; most: number }): Value {
    return this.#one('absQuantile', [x], o)
  }

  /**
   * x with the standard deviation of `reference`, that of each sample over all its elements, as far as `amount` (0 to 1) says:
   * kernels/ops.h RescaleGuidance. Flat samples. No gradient.
   */
  rescaleGuidance(x: Value, reference: Value, o: { amount: number }): Value {
    return this.#one('rescaleGuidance', [x, reference], o)
  }

  /**
   * After all that was added before, changes the buffers of the inputs step and t, i32 [n, 1, 1, 1]: step += 1 and
   * t = table[step], table i32 [T, 1, 1, 1]. The next run finds them so. t may be step, which then becomes what the table has. Has no
   * value.
   */
  nextStep(step: Value, table: Value, t: Value): void {
    this.#add('nextStep', [step, table, t])
  }

  /** Normal numbers [n, 1, 1, d], kernels/philox.h; rng i32 [1, 1, 1, 4], sample and step i32 [n, 1, 1, 1]. */
  gaussianNoise(rng: Value, sample: Value, step: Value, o: { d: number; purpose: number }): Value {
    return this.#one('gaussianNoise', [rng, sample, step], o)
  }

  /** x with noise of a learned variance, on flat samples: kernels/ops.h VarianceNoise. table [T, 1, 1, 4]. */
  varianceNoise(x: Value, v: Value, table: Value, t: Value, noise: Value): Value {
    this.#picks(t, table)
    return this.#one('varianceNoise', [x, v, table, t, noise])
  }

  /**
   * The variational bound's term of each sample in bits per dimension, [n, 1, 1, 1], with a gradient for v alone:
   * kernels/ops.h VariationalLoss. All flat samples; table [T, 1, 1, 4].
   */
  variationalLoss(mean: Value, trueMean: Value, x0: Value, v: Value, table: Value, t: Value): Value {
    this.#picks(t, table)
    return this.#one('variationalLoss', [mean, trueMean, x0, v, table, t])
  }

  /**
   * A draw of the normal distributions of moments [n, h, w, 2c] (means, then log variances, clamped to [-30, 20]) by normal
   * noise [n, h, w, c]: kernels/ops.h GaussianSample. The noise has no gradient.
   */
  gaussianSample(moments: Value, noise: Value): Value {
    return this.#one('gaussianSample', [moments, noise])
  }

  /** The divergence of the same distributions from N(0, 1) in nats, summed over a sample: [n, 1, 1, 1]. */
  gaussianKl(moments: Value): Value {
    return this.#one('gaussianKl', [moments])
  }

  /**
   * The row of codebook [v, c] that is nearest to each pixel of z [n, h, w, c]: its index, i32 [n, h, w, 1], for `embedding`, and
   * the same as an f32 number, for outputs. No gradient.
   */
  nearestCode(z: Value, codebook: Value): { index: Value; number: Value } {
    const [index, number] = this.#add('nearestCode', [z, codebook])
    return { index, number }
  }

  /**
   * What `build` adds, of which `backward` then keeps only what others read: it computes the rest again, right before the
   * gradients that need it. The gradients are the same to the bit. Within another `recomputed` it is part of that.
   */
  recomputed<T>(build: () => T): T {
    if (this.#recomputing) return build()
    this.native.region(true)
    this.#recomputing = true
    try {
      return build()
    } finally {
      this.#recomputing = false
      this.native.region(false)
    }
  }

  /**
   * What `build` adds has no gradients of parameters, for `backward` with respect to inputs alone: parameters are read from the bank
   * 'frozen', which is then bound to what else is 'weights'. Not for networks of which some parameters are frozen.
   */
  untrained<T>(build: () => T): T {
    return this.#parameters.untrained(build)
  }

  /** What `build` adds has its parameters at a place of a larger table's banks: see ParameterTable.append. */
  placed<T>(place: TablePlace, build: () => T): T {
    return this.#parameters.placed(place, build)
  }

  /** Appends the gradient nodes of a scalar; gradients of parameters go to the bank 'grads' with +=. */
  backward(loss: Value, wrt: readonly Value[] = []): (Value | undefined)[] {
    const ids = this.native.backward(
      loss.id,
      wrt.map((v) => v.id),
    )
    return ids.map((id) => (id < 0 ? undefined : { id, dims: this.native.dims(id) }))
  }

  /**
   * The bank 'grads' of `count` elements becomes the sum of those of all `ranks` processes that train together, each of which has had
   * `share` batches, the last one's gradients in 'grads', those of the nodes before it in 'earlier-0' and so on, in that order
   * (native/graph/rank_sum.h). Runs after `backward`'s nodes; pieces of the bank go out while these run. With `keepsParts` each rank gets
   * its own parts of the sum only. One in a program. Has no value.
   */
  sumRanks(o: { count: number; rank: number; ranks: number; share: number; keepsParts: boolean }): void {
    this.#add('sumRanks', [], o)
  }

  /**
   * The sum of squares of the bank 'grads' of `count` elements, [1, 1, 1, 1]. Runs after `backward`'s nodes. With `shard` each of the
   * ranks has its own parts of the bank (native/graph/bank_parts.h), and the sum is that of all.
   */
  gradSumSquares(count: number, shard: Shard = whole): Value {
    return this.#one('gradSumSquares', [], { count, ...shard })
  }

  /**
   * AdamW on the banks weights, grads, m, v, then with `ema` the bank 'ema' towards the new weights by hyper's decay; hyper
   * f32 [1, 1, 1, 16], kernels/ops.h Hyper. Changes nothing where sumSquares is not finite. With `shard` a rank updates its own parts
   * of the weights, of which alone it has m, v and ema, one after the other, and gets the others' weights. Has no value.
   */
  adamw(hyper: Value, sumSquares: Value, { count, ema, shard = whole }: UpdateOf): void {
    this.#add('adamw', [hyper, sumSquares], { count, ...(ema !== undefined && { ema }), ...shard })
  }

  /** Lion on the banks weights, grads, m; otherwise as adamw. */
  lion(hyper: Value, sumSquares: Value, { count, ema, shard = whole }: UpdateOf): void {
    this.#add('lion', [hyper, sumSquares], { count, ...(ema !== undefined && { ema }), ...shard })
  }

  /** The bank 'ema' towards the bank 'weights' by hyper's decay; with `shard` as adamw. Has no value. */
  ema(hyper: Value, { count, shard = whole }: { count: number; shard?: Shard }): void {
    this.#add('ema', [hyper], { count, ...shard })
  }

  /** Sets the bank 'grads' to zero, in the order of the calls. Has no value. */
  zeroGrads(o: { count: number }): void {
    this.#add('zeroGrads', [], o)
  }
}
