/** A classifier of noisy images: guided-diffusion's classifier_train.py and the gradients of its classifier_sample.py. */
import type { Device, DeviceName } from '../../device'
import { DiffusionError, invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { NativeBuffer, Precision, WeightFormat } from '../../native'
import { EncoderUNet } from '../../nn/unet/encoder-unet'
import type { EncoderUNetOptions } from '../../nn/unet/encoder-unet-options'
import { integer, number, oneOf, parseOptions, type SchemaOf, type Seed, seed, value } from '../../options'
import type { Bindings, Program } from '../../program'
import { drawTimesteps, Purpose, words } from '../../rng'
import { Stage, stageSchema } from '../../stages/stage'
import { checkTensor, type Shape, sizeOf, Tensor } from '../../tensor'
import { type ScheduleOptions, scheduleSchema } from '../process/model-options'
import { noiseBindings, noiseInputs } from '../process/process'
import { type Schedule, sameSchedule } from '../process/schedule'
import { scheduleOf } from '../process/schedule-of'
import { type Integers, parseIntegers, parseTimesteps, type Timesteps } from '../process/timesteps'
import {
  appendUpdate,
  hyperOf,
  momentsOf,
  type OptimizerOptions,
  type OptimizerSettings,
  parseOptimizer,
  rateOf,
} from '../training/optimizer'
import { checkClassifierFits, readClassifierFile, writeClassifierFile } from './file'

/** How a classifier is computed, and the schedule of the model that it is to guide. */
export interface ClassifierSettings extends ScheduleOptions {
  /** Where it is computed: that of the model that it is to guide. Default 'auto'. */
  device?: DeviceName | Device
  /** What the network is computed in; see ComputeOptions. Default 'fp32'. */
  precision?: Exclude<Precision, 'fp16'>
  /** What weights of convolutions and linear layers are held in; see ComputeOptions. Default 'fp32'. */
  weightFormat?: WeightFormat
  /** Of the initial weights and of training. Default 0. */
  seed?: Seed
  /** Fix every algorithm, so that gradients are the same bit for bit in any batch. Default false. */
  deterministic?: boolean
}

/** Of Classifier. */
export interface ClassifierOptions extends ClassifierSettings {
  /** Options of the network; its outChannels are the classes. */
  encoderConfig: EncoderUNetOptions
}

/** Of Classifier.fromFile. */
export interface ClassifierFileOptions extends ClassifierSettings {
  /** Options of the network. Default: those of the file. */
  encoderConfig?: EncoderUNetOptions
}

const classifierSchema = {
  ...scheduleSchema,
  encoderConfig: value<EncoderUNetOptions>(
    'an object of EncoderUNet options',
    (v) => typeof v === 'object' && v !== null && !Array.isArray(v),
  ),
  ...stageSchema,
  precision: oneOf(['fp32', 'bf16'], 'fp32'),
} satisfies SchemaOf<ClassifierOptions>

/** Of Classifier.trainBatch. */
export interface ClassifierTrainOptions {
  /** Timesteps, one for all samples or one for each. Default: drawn evenly from all. */
  t?: Timesteps
  /** Of x's shape. Default: drawn. */
  noise?: Tensor
  /** Learning rate of this update. Default: the optimizer's. */
  lr?: number
  /** Names the drawn timesteps and noise, with `sampleOffset`. Default: the number of updates so far. */
  step?: number
  /** Index of the first sample among those of this step. Default 0. */
  sampleOffset?: number
}

const trainSchema = {
  t: value<Timesteps>('timesteps', () => true),
  noise: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  lr: number(undefined, { min: 0 }),
  step: integer(undefined, { min: 0, max: 2 ** 31 - 1 }),
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
} satisfies SchemaOf<ClassifierTrainOptions>

/** Of Classifier.evaluate. */
export interface ClassifierEvaluateOptions {
  /** Of x's shape. Default: drawn by `seed`. */
  noise?: Tensor
  /** Of the noise. Default: the classifier's. */
  seed?: Seed
}

const evaluateSchema = {
  noise: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  seed: seed(),
} satisfies SchemaOf<ClassifierEvaluateOptions>

export interface ClassifierResult {
  /** Mean cross entropy in nats. */
  readonly loss: number
  /** How many of the labels are the likeliest class, from 0 to 1. */
  readonly accuracy: number
}

interface Noised {
  readonly x: Tensor
  readonly y: Int32Array
  readonly t: Int32Array
  readonly noise?: Tensor
  readonly stream: { seed: Seed; step: number; sampleOffset: number }
}

/** A program that has x, t and what `bindings` are as inputs and `gradient` as output. */
export interface ScaledClassifier {
  /** With `rows`, t is row `row` of the table `times` of so many numbers. */
  program(shape: Shape, rows?: number): Promise<Program>
  /** The gradient is times `scale`. */
  bindings(labels: Int32Array, scale: number): Readonly<Record<string, NativeBuffer>>
  release(): void
}

/**
 * p(y | x_t) by an EncoderUNet, trained with noise as a diffusion model is. `sample({ classifier, classLabels, classifierScale })` of
 * a model with the same schedule is guided by it.
 */
export class Classifier extends Stage {
  readonly network: EncoderUNet
  readonly schedule: Schedule
  /** Updates so far. */
  globalStep = 0

  /** What files have of it. */
  readonly #config: object
  #optimizer?: OptimizerSettings

  /** Throws `invalid-argument`, `unknown-option`, `device-unavailable`, and `unsupported` for a precision or a format of weights that the device has not got. */
  constructor(options: ClassifierOptions) {
    const o = parseOptions('Classifier', options, classifierSchema)
    if (!o.encoderConfig) throw invalidArgument('encoderConfig', 'an object of EncoderUNet options', undefined)
    const network = new EncoderUNet(o.encoderConfig)
    const schedule = scheduleOf(o, { parameterization: 'x0', vPosterior: 0 })
    super('Classifier', network.parameters, o)
    this.network = network
    this.schedule = schedule
    const { device: _, precision: __, weightFormat: ___, seed: ____, deterministic: _____, ...rest } = o
    this.#config = { ...rest, encoderConfig: network.options }
  }

  get numTimesteps(): number {
    return this.schedule.betas.length
  }

  get numClasses(): number {
    return this.network.outChannels
  }

  /** AdamW or Lion, starting afresh; see DiffusionModel.configureOptimizers. */
  configureOptimizers(options: OptimizerOptions): void {
    this.alive()
    this.parameters.requireWide('configureOptimizers')
    this.#optimizer = parseOptimizer(options)
    this.globalStep = 0
    for (const bank of ['grads', 'm', 'v'] as const) {
      if (this.weights.has(bank)) this.weights.bank(bank).write(new Float32Array(this.network.parameters.count))
    }
  }

  /**
   * Cross entropy of one batch of images x [n, c, h, w] with noise, its gradients and the update: one program. Needs
   * configureOptimizers. Throws `not-finite` when the loss is not a number; then nothing has changed.
   */
  async trainBatch(
    x: Tensor,
    y: Integers,
    options: ClassifierTrainOptions = {},
  ): Promise<ClassifierResult & { gradNorm: number }> {
    const o = parseOptions('trainBatch', options, trainSchema)
    if (!this.#optimizer) {
      throw new DiffusionError('not-configured', 'call configureOptimizers({ lr }) before training', {
        argument: 'configureOptimizers',
      })
    }
    const { step = this.globalStep, sampleOffset } = o
    const optimizer = this.#optimizer
    return this.call(async () => {
      const input = await this.#input(x, y, { ...o, stream: { seed: this.seed, step, sampleOffset } })
      const program = await this.#noisedProgram('train', input, (g) => {
        const { count } = this.network.parameters
        const { loss, logits } = this.#loss(g, input, true)
        g.backward(g.weightedSum(loss, g.input('mean', loss.dims)))
        return { loss, logits, ...appendUpdate(g, { optimizer: optimizer.optimizer, count, ema: false }) }
      })
      const settings = { ...optimizer, lr: o.lr ?? rateOf(optimizer, this.globalStep) }
      this.globalStep++
      const { loss, logits, sumSquares } = await program.run({
        ...(await this.#bindings(input, true)),
        ...this.weights.bindings('weights'),
        grads: this.weights.bank('grads'),
        ...Object.fromEntries(momentsOf(optimizer).map((bank) => [bank, this.weights.bank(bank)])),
        mean: new Float32Array(input.y.length).fill(1 / input.y.length),
        hyper: hyperOf(settings, { step: this.globalStep, gradScale: 1 }),
      })
      const result = resultOf(loss, logits, input.y)
      if (Number.isFinite(result.loss) && Number.isFinite(sumSquares[0])) {
        return { ...result, gradNorm: Math.sqrt(sumSquares[0]) }
      }
      this.globalStep--
      throw new DiffusionError('not-finite', `the classifier's loss is ${result.loss} at step ${this.globalStep + 1}`, {
        argument: 'loss',
      })
    })
  }

  /** trainBatch by names as DDPM's trainingStep takes them: `image` [n, h, w, c] and `class_label` [n]. */
  async trainingStep(
    batch: Readonly<Record<string, Tensor>>,
    options: ClassifierTrainOptions = {},
  ): Promise<ClassifierResult & { gradNorm: number }> {
    const { image, class_label: labels } = batch
    if (!(image instanceof Tensor) || image.shape.length !== 4) {
      throw invalidArgument('batch.image', 'a Tensor of shape [n, height, width, channels]', image)
    }
    if (!(labels instanceof Tensor)) throw invalidArgument('batch.class_label', 'a Tensor of labels', labels)
    return this.trainBatch(await toNchw(image), labels, options)
  }

  /** Cross entropy and accuracy of x with the noise of timestep t, without dropout. */
  async evaluate(
    x: Tensor,
    y: Integers,
    t: Timesteps,
    options: ClassifierEvaluateOptions = {},
  ): Promise<ClassifierResult> {
    const { noise, seed: given = this.seed } = parseOptions('evaluate', options, evaluateSchema)
    return this.call(async () => {
      const input = await this.#input(x, y, { t, noise, stream: { seed: given, step: 0, sampleOffset: 0 } })
      const program = await this.#noisedProgram('evaluate', input, (g) => this.#loss(g, input, false))
      const { loss, logits } = await program.run({ ...(await this.#bindings(input, false)), ...this.#frozen })
      return resultOf(loss, logits, input.y)
    })
  }

  /** Of noisy images x_t: [n, classes]. */
  async logits(x: Tensor, t: Timesteps): Promise<Tensor> {
    return this.call(async () => {
      this.#check(x)
      const [n] = x.shape
      const program = await this.program('logits', { n }, (g) => this.#logits(g, n).outputs)
      const steps = await parseTimesteps(t, n, this.numTimesteps)
      const { logits } = await program.run({ x: await x.binding(this.device), t: steps, ...this.#frozen })
      return Tensor.wrap(logits, [n, this.numClasses])
    })
  }

  /** The gradient of log p(y | x_t) with respect to x_t, of x's shape. */
  async logProbGradient(x: Tensor, t: Timesteps, y: Integers): Promise<Tensor> {
    return this.call(async () => {
      this.#check(x)
      const [n] = x.shape
      const steps = await parseTimesteps(t, n, this.numTimesteps)
      const labels = await this.#labels(y, n)
      const program = await this.#gradientProgram(x.shape)
      const { gradient } = await program.run({
        ...{ x: await x.binding(this.device), t: steps, labels, scale: new Float32Array(n).fill(-1) },
        ...this.#frozen,
      })
      return Tensor.wrap(gradient, x.shape)
    })
  }

  /** @internal For the sampling of a model of this schedule. Throws `invalid-argument` where it does not fit. */
  guide(o: { device: Device; schedule: Schedule; shape: Shape }): ScaledClassifier {
    this.alive()
    this.#checkShape(o.shape, 'classifier')
    if (o.device !== this.device) {
      throw invalidArgument('classifier', `one on the model's device, ${o.device.name}`, this.device.name)
    }
    if (!sameSchedule(o.schedule, this.schedule)) {
      throw invalidArgument('classifier', "one with the model's schedule", 'another schedule')
    }
    const held: NativeBuffer[] = []
    const upload = (values: Float32Array | Int32Array) => {
      held.push(this.device.upload(values))
      return held[held.length - 1]
    }
    const letGo = this.hold()
    return {
      program: (shape, rows) => this.#gradientProgram(shape, rows),
      bindings: (labels, scale) => ({
        labels: upload(labels),
        // The loss is -log p.
        scale: upload(new Float32Array(labels.length).fill(-scale)),
        ...this.#frozen,
      }),
      release: () => {
        for (const buffer of held) buffer.release()
        letGo()
      },
    }
  }

  /** Writes a safetensors file with the weights, and the options by which `fromFile` makes the classifier again. Throws `io`, and `unsupported` with a weightFormat. */
  async save(path: string): Promise<void> {
    this.parameters.requireWide('save')
    await writeClassifierFile(path, this.#config, await this.stateDict())
  }

  /** Takes the weights of a safetensors file. Throws `not-found`, `io`, `bad-file` and `state-mismatch`. */
  async load(path: string): Promise<void> {
    await this.loadStateDict((await readClassifierFile(path)).dict)
  }

  /**
   * The classifier of a file of `save`. `options` come before those of the file, and are needed for one that has weights alone. Throws
   * `not-found`, `io`, `bad-file`, `state-mismatch`, and what the constructor throws.
   */
  static async fromFile(path: string, options: ClassifierFileOptions = {}): Promise<Classifier> {
    const { config, dict } = await readClassifierFile(path)
    const all = { ...config, ...options } as ClassifierOptions
    checkClassifierFits(all.encoderConfig, dict, path)
    const classifier = new Classifier(all)
    try {
      await classifier.loadStateDict(dict)
      return classifier
    } catch (error) {
      classifier.dispose()
      throw error
    }
  }

  // ---- programs ----------------------------------------------------------------------------------------------------

  /** For programs that train nothing: Graph.untrained. */
  get #frozen(): Bindings & { frozen: NativeBuffer } {
    return { frozen: this.weights.bank('weights') }
  }

  #noisedProgram(kind: string, { y, noise }: Noised, build: (g: Graph) => Record<string, Value>): Promise<Program> {
    return this.program(kind, { n: y.length, drawn: !noise }, build)
  }

  #gradientProgram(shape: Shape, rows = 0): Promise<Program> {
    const [n] = shape
    const build = (g: Graph) => {
      const { x, outputs } = this.#logits(g, n, rows)
      const loss = g.crossEntropy(outputs.logits, g.input('labels', [n, 1, 1, 1], 'i32'))
      const [gradient] = g.backward(g.weightedSum(loss, g.input('scale', loss.dims)), [x])
      return { gradient: gradient! }
    }
    return this.program('gradient', { n, rows }, build)
  }

  #logits(g: Graph, n: number, rows = 0): { x: Value; outputs: { logits: Value } } {
    const x = g.input('x', [n, 1, 1, this.#size])
    const index = g.input(rows ? 'row' : 't', [n, 1, 1, 1], 'i32')
    const t = rows ? g.extract(g.input('times', [rows, 1, 1, 1]), index) : index
    return { x, outputs: { logits: g.untrained(() => this.#network(g, x, t)) } }
  }

  #network(g: Graph, x: Value, t: Value, rng?: Value): Value {
    const { inChannels: channels, imageSize: height } = this.network
    const images = g.toNhwc(x, { channels, height, width: height })
    return this.network.build({ graph: g, train: rng !== undefined, rng }, images, t)
  }

  #loss(g: Graph, o: Noised, train: boolean): { loss: Value; logits: Value } {
    const n = o.y.length
    const d = this.#size
    const [x, t] = [g.input('x', [n, 1, 1, d]), g.input('t', [n, 1, 1, 1], 'i32')]
    const drawn = () => {
      const { rng, sample, step } = noiseInputs(g, n)
      return g.gaussianNoise(rng, sample, step, { d, purpose: Purpose.training })
    }
    const noise = o.noise ? g.input('noise', [n, 1, 1, d]) : drawn()
    const [a, b] = ['a', 'b'].map((name) => g.input(name, [this.numTimesteps, 1, 1, 1]))
    const noisy = g.timestepAffine(x, a, t, noise, b)
    const logits = train
      ? this.#network(g, noisy, t, g.input('dropoutRng', [1, 1, 1, 4], 'i32'))
      : g.untrained(() => this.#network(g, noisy, t))
    return { loss: g.crossEntropy(logits, g.input('labels', [n, 1, 1, 1], 'i32')), logits }
  }

  async #bindings(o: Noised, train: boolean): Promise<Bindings> {
    const { seed: key, step, sampleOffset } = o.stream
    const [low, high] = words(key, Purpose.dropout, sampleOffset, step, 2)
    return {
      ...{ x: await o.x.binding(this.device), t: o.t, labels: o.y, ...this.#tables },
      ...(o.noise ? { noise: await o.noise.binding(this.device) } : noiseBindings(o.y.length, o.stream)),
      ...(train && { dropoutRng: Int32Array.of(low, high, step, 0) }),
    }
  }

  get #tables() {
    return { a: this.schedule.sqrtAlphasCumprod, b: this.schedule.sqrtOneMinusAlphasCumprod }
  }

  // ---- checks ------------------------------------------------------------------------------------------------------

  get #size(): number {
    return this.network.inChannels * this.network.imageSize ** 2
  }

  async #input(
    x: Tensor,
    y: Integers,
    o: { t?: Timesteps; noise?: Tensor; stream: Noised['stream'] },
  ): Promise<Noised> {
    this.alive()
    this.#check(x)
    if (o.noise) checkTensor(o.noise, 'noise', x.shape)
    const [batchSize] = x.shape
    const { numTimesteps } = this
    const { seed: key, step, sampleOffset } = o.stream
    const drawn = () => drawTimesteps(key, step, { batchSize, numTimesteps, sampleOffset })
    const t = o.t === undefined ? drawn() : await parseTimesteps(o.t, batchSize, numTimesteps)
    return { x, t, y: await this.#labels(y, batchSize), noise: o.noise, stream: o.stream }
  }

  /** @internal */
  labels(y: Integers, n: number, argument: string): Promise<Int32Array> {
    return parseIntegers(y, n, { argument, noun: 'class labels', count: this.numClasses })
  }

  #labels(y: Integers, n: number): Promise<Int32Array> {
    return this.labels(y, n, 'y')
  }

  #check(x: Tensor): void {
    checkTensor(x, 'x')
    this.#checkShape(x.shape, 'x')
  }

  #checkShape(shape: Shape, argument: string): void {
    const { inChannels, imageSize } = this.network
    const fits = shape.length === 4 && shape[0] > 0 && sizeOf(shape.slice(1)) === this.#size && shape[1] === inChannels
    if (fits && shape[2] === imageSize) return
    throw invalidArgument(argument, `images of shape [n, ${inChannels}, ${imageSize}, ${imageSize}]`, shape)
  }
}

function resultOf(losses: Float32Array, logits: Float32Array, y: Int32Array): ClassifierResult {
  const classes = logits.length / y.length
  const right = y.filter((label, i) => {
    const own = logits.subarray(i * classes, (i + 1) * classes)
    return own[label] === own.reduce((most, v) => Math.max(most, v), Number.NEGATIVE_INFINITY)
  })
  return { loss: losses.reduce((sum, v) => sum + v, 0) / y.length, accuracy: right.length / y.length }
}

async function toNchw(image: Tensor): Promise<Tensor> {
  const [n, h, w, c] = image.shape
  const values = await image.data()
  const data = new Float32Array(values.length)
  const area = h * w
  for (let i = 0; i < n; i++)
    for (let p = 0; p < area; p++)
      for (let k = 0; k < c; k++) data[(i * c + k) * area + p] = values[(i * area + p) * c + k]
  return Tensor.wrap(data, [n, c, h, w])
}
