/** Options of guided sampling. */
import { func, number, type SchemaOf, value } from '../../../options'
import { Tensor } from '../../../tensor'
import { Classifier } from '../../classifier/classifier'
import { type Core, coreOf } from '../../process/core'
import type { ConditionFunction } from './classifier-guidance'

/** A DDPM, or another diffusion model. */
export abstract class GuidingModel {
  /** @internal */
  abstract readonly [coreOf]: Core
}

/** How predictions are guided, on any sampler. */
export interface GuidanceOptions {
  /**
   * How far from the other prediction (of no class, of `negativeContext` and `negativeVector`, or of `guidingModel`): 1 (default) is the model's own, 0 the
   * other one, more than 1 exaggerates the difference (Ho & Salimans 2022, eq. 6 with s = 1 + w).
   */
  guidanceScale?: number
  /**
   * The context to go away from, for a network with cross-attention: tokens [n or 1, l, contextDim]. Default: zeros for a model with
   * `contextDropout`; else the same context where there is a null class or a vector, and needed where there is neither.
   */
  negativeContext?: Tensor
  /** The vector to go away from, for a network that needs a vector: [n or 1, vectorDim]. Default: zeros. */
  negativeVector?: Tensor
  /** The map to go away from, for a network with concatChannels, of the map's shape. Default: the same map. */
  negativeConcat?: Tensor
  /**
   * The noise levels at which there is guidance, from above the first up to the second: sigma = sqrt((1 - alpha_bar) / alpha_bar) by the
   * model's schedule (Kynkaanniemi et al. 2024, eq. 5). Outside of them the network is evaluated once. Default: all.
   */
  guidanceInterval?: readonly [number, number]
  /**
   * How much of the given prediction's standard deviation the guided one gets back, from 0 (default) to 1: phi of Lin et al. 2024, eq.
   * 15 and 16 (0.7 there), by each sample's deviation of the network's output. diffusers' guidance_rescale.
   */
  guidanceRescale?: number
  /**
   * A worse model of the same data to go away from, in place of no class (autoguidance, Karras et al. 2024a, eq. 3): on the same device,
   * with the same schedule and parameterization. It is told the same class and context where it takes them. Default: none.
   */
  guidingModel?: GuidingModel
  /**
   * A classifier of noisy images, whose gradient of log p(y | x_t) for `classLabels` guides (Dhariwal & Nichol 2021): it moves the
   * mean of each step with 'ddpm' (algorithm 1), the prediction with all others (algorithm 2). Default: none.
   */
  classifier?: Classifier
  /** What the classifier's gradient is multiplied by. Default 1. */
  classifierScale?: number
  /**
   * In place of a classifier, guided-diffusion's cond_fn: (x, t) to the gradient of log p(y | x_t) with respect to x, in x's shape,
   * times a scale of one's own. Called before each evaluation of the network, which waits for it. Default: none.
   */
  condFn?: ConditionFunction
}

const isInterval = (v: unknown) =>
  Array.isArray(v) && v.length === 2 && v.every((level) => typeof level === 'number') && v[0] >= 0 && v[0] <= v[1]

export const guidanceSchema = {
  guidanceScale: number(),
  negativeContext: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  negativeVector: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  negativeConcat: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  guidanceInterval: value<readonly [number, number]>('[low, high], two noise levels', isInterval),
  guidanceRescale: number(undefined, { min: 0, max: 1 }),
  guidingModel: value<GuidingModel>('a diffusion model', (v) => typeof v === 'object' && v !== null && coreOf in v),
  classifier: value<Classifier>('a Classifier', (v) => v instanceof Classifier),
  classifierScale: number(),
  condFn: func<ConditionFunction>(),
} satisfies SchemaOf<GuidanceOptions>
