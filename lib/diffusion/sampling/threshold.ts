/**
 * Dynamic thresholding: Saharia et al. 2022, section 2.3. The predicted x_0 of each sample is clipped to [-s, s] and divided by s, a
 * quantile of its absolute values: what the fused step's clipping to [-1, 1] does where x_0 is divided by s before. So s becomes
 * part of the coefficients, and each sample has rows of its own.
 */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Binding, Bindings } from '../../program'
import type { Shape } from '../../tensor'
import { type Core, extentOf } from '../process/core'
import type { Threshold } from '../process/settings'
import { rowLength } from '../process/step-tables'
import { type GuidanceKind, guidedOutput } from './guidance/nodes'
import type { SamplingPlan } from './plan'
import type { StepKind } from './posterior-step'

/** s of one sample's x_0: the quantile between two values is on the line between them, as torch.quantile has it. */
export function thresholdOf(x0: Float32Array, { ratio, max }: Threshold): number {
  const sorted = x0.map(Math.abs).sort()
  const position = ratio * (sorted.length - 1)
  const low = Math.floor(position)
  const high = Math.min(low + 1, sorted.length - 1)
  const quantile = sorted[low] + (position - low) * (sorted[high] - sorted[low])
  return Math.min(Math.max(quantile, 1), max)
}

/** The step's guidance, and its inputs of the prediction. */
interface ThresholdedGuidance {
  readonly guidance?: GuidanceKind
  readonly guided?: Bindings
}

/** What a step is run with in place of the plan's own tables. */
export interface ThresholdedStep {
  readonly tables: Bindings
  readonly row: Int32Array
  readonly denoiser: Bindings
}

/** Evaluates the denoiser once a step, by itself, and then gives its output to the step. */
export class Thresholding {
  readonly #output?: NativeBuffer

  constructor(
    private readonly core: Core,
    private readonly shape: Shape,
    private readonly plan: SamplingPlan & { readonly threshold: Threshold },
    private readonly kind: StepKind,
  ) {
    const { n, d } = extentOf(shape, 'shape')
    const { rows } = plan
    if (n > rows) throw invalidArgument('shape', `at most ${rows} samples with thresholding`, shape)
    if (!core.denoiser.external) this.#output = core.device.allocate(kind.learned ? 2 * n * d : n * d)
  }

  /** Whether the step's program takes the output as an input. */
  get given(): boolean {
    return this.#output !== undefined
  }

  async step(
    i: number,
    at: { x: NativeBuffer; t: Binding; table: Binding; denoiser: Bindings } & ThresholdedGuidance,
  ): Promise<ThresholdedStep> {
    const { plan } = this
    const { n, d } = extentOf(this.shape, 'shape')
    const { x, t, table, denoiser, guidance, guided } = at
    const program = await this.#program(guidance)
    const out = this.#output && { out: this.#output }
    const { x0 } = await program.run({ x, t, table, row: new Int32Array(n).fill(i), ...denoiser, ...guided, ...out })
    const scales = Array.from({ length: n }, (_, k) => thresholdOf(x0.subarray(k * d, (k + 1) * d), plan.threshold))
    const { rows } = plan
    /** Of one table, with row i for each sample. */
    const spread = (values: Float32Array) => {
      const length = values.length / rows
      const own = new Float32Array(values.length)
      for (let k = 0; k < n; k++) own.set(values.subarray(i * length, (i + 1) * length), k * length)
      return own
    }
    const steps = spread(plan.table)
    for (const [k, scale] of scales.entries()) for (const j of [0, 1]) steps[k * rowLength + j] /= scale
    const columns = Object.entries(plan.columns).map(([name, values]) => [name, spread(values)])
    const tables = {
      table: steps,
      ...(plan.variance && this.kind.noise !== 'none' && { variance: spread(plan.variance) }),
      ...(guidance?.gradient === 'mean' && plan.meanShift && { meanShift: spread(plan.meanShift) }),
    }
    return {
      tables: { ...tables, ...Object.fromEntries(columns) },
      row: Int32Array.from({ length: n }, (_, k) => k),
      denoiser: out ?? denoiser,
    }
  }

  /** x_0 before it is clipped, and the output where it is the network's. */
  #program(guidance: GuidanceKind | undefined) {
    const { core, shape, kind } = this
    const { n, d } = extentOf(shape, 'shape')
    const { condition, learned = false } = kind
    const build = (g: Graph): Record<string, Value> => {
      const x = g.input('x', [n, 1, 1, d])
      const row = g.input('row', [n, 1, 1, 1], 'i32')
      const table = g.input('table', [this.plan.rows, 1, 1, rowLength])
      const t = g.input('t', [n, 1, 1, 1], 'i32')
      const by = kind.between ? { row, rows: this.plan.rows } : undefined
      const { prediction, variance } = guidedOutput(core, g, { x, t, shape, by }, { condition, guidance })
      const { x0 } = g.posteriorStep(x, prediction, table, row, { clip: false })
      if (core.denoiser.external) return { x0 }
      return { x0, out: learned && variance ? g.concat([prediction, variance]) : prediction }
    }
    const key = {
      shape: shape.join('x'),
      guidance: JSON.stringify(guidance ?? null),
      ...condition,
      learned,
      rows: this.plan.rows,
      between: kind.between ?? false,
    }
    return core.networkProgram('prediction', key, build, kind.deterministic)
  }

  release(): void {
    this.#output?.release()
  }
}
