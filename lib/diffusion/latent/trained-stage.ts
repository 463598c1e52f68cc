/** A conditioning stage that is trained with the model: ddpm.py's cond_stage_trainable. */
import type { Device } from '../../device'
import { invalidArgument } from '../../errors'
import type { ParameterTable } from '../../nn/parameters'
import type { Weights } from '../../nn/weights'
import type { TablePlace } from '../../parameter-slot'
import type { StageNodes } from '../../stages/stage'
import type { MadeCondition } from '../process/condition'
import type { ConditioningKey } from './conditioning'
import type { CondStage } from './stages'

/** Of this package: its graph can be a part of the step's, and its weights of what the step trains. */
interface TrainableStage extends CondStage {
  readonly trainable: boolean
  readonly device: Device
  readonly parameters: ParameterTable
  nodes(input: unknown): Promise<StageNodes>
  follow(weights: Weights, offset: number): Promise<void>
  outdated(): void
}

/** Before the names of its weights in the model's state dict. */
export const condStagePrefix = 'cond_stage_model.'

/** Undefined for a stage without weights. Throws `invalid-argument` for what can't be trained. */
export function trainableStage(
  stage: unknown,
  { key, forward = 'encode' }: { key: ConditioningKey | undefined; forward?: string },
): TrainableStage | undefined {
  const given = stage as Partial<TrainableStage>
  if (!given.trainable || typeof given.nodes !== 'function') {
    throw invalidArgument('condStageTrainable', 'false for this conditioning stage, which is not trainable', stage)
  }
  if (key !== 'crossattn' && key !== 'concat') {
    throw invalidArgument('condStageTrainable', `false with conditioningKey '${key}'`, true)
  }
  if (forward !== 'encode') throw invalidArgument('condStageForward', 'encode, with condStageTrainable', forward)
  return given.parameters?.count ? (stage as TrainableStage) : undefined
}

export class TrainedStage {
  #following?: Promise<void>

  constructor(
    readonly stage: TrainableStage,
    readonly key: ConditioningKey,
    readonly weights: Weights,
    readonly place: TablePlace,
  ) {
    if (stage.device === weights.device) return
    throw invalidArgument('condStage', `one on ${weights.device.name}, with condStageTrainable`, stage.device.name)
  }

  /** Has the training begin with the stage's weights, once. */
  async begin(): Promise<void> {
    this.#following ??= this.stage.follow(this.weights, this.place.offset).catch((error) => {
      this.#following = undefined
      throw error
    })
    await this.#following
  }

  /** The condition that the stage makes of its input, as part of a step's graph. */
  async condition(input: unknown): Promise<MadeCondition> {
    await this.begin()
    const { key, bindings, build } = await this.stage.nodes(input)
    return {
      as: this.key === 'concat' ? 'concat' : 'context',
      key,
      bindings,
      build: (context) => context.graph.placed(this.place, () => build(context)),
    }
  }

  /** After an update. */
  outdated(): void {
    this.stage.outdated()
  }
}
