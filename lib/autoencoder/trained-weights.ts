/** A network's weights with what an optimizer keeps of them. */
import { LitEma } from '../diffusion/training/ema'
import {
  hyperOf,
  momentsOf,
  type OptimizerOptions,
  type OptimizerSettings,
  parseOptimizer,
  rateOf,
} from '../diffusion/training/optimizer'
import { DiffusionError } from '../errors'
import type { StateDict, Weights } from '../nn/weights'
import type { Bindings } from '../program'

/** What a bit-exact resume needs of one network. */
export interface OptimizedState {
  /** By the network's names. */
  weights: StateDict
  /** Undefined where there are no averages. */
  ema?: StateDict
  /** The optimizer's averages of the gradients. */
  m: StateDict
  /** AdamW's averages of their squares. Undefined with Lion, which has none. */
  v?: StateDict
  /** Updates so far. */
  optimizerStep: number
  /** How often the weights were averaged in. */
  emaUpdates: number
}

export class TrainedWeights {
  /** Updates so far. */
  step = 0
  readonly #ema: LitEma | undefined
  #options: OptimizerSettings | undefined

  /** The averages begin with the weights of now. */
  constructor(
    readonly weights: Weights,
    o: { readonly useEma: boolean; readonly emaDecay: number },
  ) {
    if (!o.useEma) return
    this.#ema = new LitEma(o.emaDecay)
    weights.copy('weights', 'ema')
  }

  get hasEma(): boolean {
    return this.#ema !== undefined
  }

  /** Throws `not-configured` before configure(). */
  get options(): OptimizerSettings {
    if (this.#options) return this.#options
    throw new DiffusionError('not-configured', 'call configureOptimizers({ lr }) before training', {
      argument: 'configureOptimizers',
    })
  }

  /** A new optimizer: its moments and its step start from zero. */
  configure(options: OptimizerOptions): void {
    this.#options = parseOptimizer(options)
    this.step = 0
    for (const bank of ['grads', 'm', 'v'] as const) {
      if (this.weights.has(bank)) this.#clear(bank)
    }
  }

  #clear(bank: 'grads' | 'm' | 'v'): void {
    this.weights.bank(bank).write(new Float32Array(this.weights.table.count))
  }

  /** Of a program with `backward`, and with `update` one that ends with appendUpdate; which is counted. */
  bindings(o: { readonly update: boolean; readonly accumulate: number; readonly lr?: number }): Bindings {
    const { weights, options } = this
    const own = { ...weights.bindings('weights'), grads: weights.bank('grads') }
    if (!o.update) return own
    const lr = o.lr ?? rateOf(options, this.step)
    this.step += 1
    return {
      ...own,
      ...Object.fromEntries(momentsOf(options).map((bank) => [bank, weights.bank(bank)])),
      ...(this.#ema && { ema: weights.bank('ema') }),
      hyper: hyperOf(
        { ...options, lr },
        { step: this.step, gradScale: 1 / o.accumulate, emaDecay: this.#ema?.advance() },
      ),
    }
  }

  /** Takes an update back that was counted and, as its gradients are not finite, not made. */
  uncount(): void {
    this.step -= 1
    this.#ema?.retreat()
  }

  /** A snapshot of one moment between two updates. */
  async state(): Promise<OptimizedState> {
    const { weights } = this
    const counts = { optimizerStep: this.step, emaUpdates: this.#ema?.numUpdates ?? 0 }
    const [w, ema, m, v] = await Promise.all([
      weights.read('weights'),
      this.#ema ? weights.read('ema') : undefined,
      weights.read('m'),
      momentsOf(this.options).includes('v') ? weights.read('v') : undefined,
    ])
    return { weights: w, ...(ema && { ema }), m, ...(v && { v }), ...counts }
  }

  /** Throws `state-mismatch`. */
  async load(state: OptimizedState): Promise<void> {
    const { weights } = this
    const missing =
      this.#ema && !state.ema ? 'ema' : momentsOf(this.options).includes('v') && !state.v ? 'v' : undefined
    if (missing) {
      const message = `the training state has no '${missing}', which this training keeps`
      throw new DiffusionError('state-mismatch', message, { argument: missing })
    }
    await weights.writeAll([
      ['weights', state.weights],
      ['m', state.m],
      ...(state.v ? [['v', state.v] as const] : []),
      ...(this.#ema && state.ema ? [['ema', state.ema] as const] : []),
    ])
    if (this.#ema && state.ema) this.#ema.numUpdates = state.emaUpdates
    if (weights.has('grads')) this.#clear('grads')
    this.step = state.optimizerStep
  }
}
