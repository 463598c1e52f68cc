/** ddpm.py's and ddim.py's score_corrector: the user's changes of what the network says of the noise. */
import { DiffusionError, invalidArgument } from '../../errors'
import { type Shape, sameShape, Tensor } from '../../tensor'
import { applyModel } from '../process/apply-model'
import type { Condition } from '../process/condition'
import type { Core } from '../process/core'
import { FunctionDenoiser } from '../process/denoiser'
import type { Cond } from './conditioning'

/** ddpm.py's score_corrector. */
export interface ScoreCorrector {
  /** Given the model, its prediction of the noise, x_t, t [n], the condition and correctorKwargs, it returns the noise. */
  modifyScore(
    model: object,
    eT: Tensor,
    x: Tensor,
    t: Tensor,
    cond: Cond | undefined,
    kwargs: Readonly<Record<string, unknown>>,
  ): Tensor | Promise<Tensor>
}

export interface Correction {
  readonly corrector: ScoreCorrector
  readonly kwargs: Readonly<Record<string, unknown>>
  readonly model: object
  readonly cond?: Cond
  readonly condition: Condition
  /** In place of `condition`, in evaluation i. */
  readonly conditionAt?: (i: number, t: number) => Promise<Condition>
  /** With guidance, which comes before the correction. */
  readonly negative?: { readonly condition: Condition; readonly scale: number }
}

/** The core with the corrected network as its denoiser, which is told nothing more. */
export function corrected(core: Core, o: Correction): Core {
  const { settings, device } = core
  if (settings.parameterization !== 'eps' || settings.varianceType !== 'fixed') {
    const expected = "nothing for a model of parameterization other than 'eps', or with a learned variance"
    throw invalidArgument('scoreCorrector', expected, settings.parameterization)
  }
  let i = 0
  const denoiser = async (x: Tensor, t: Tensor) => {
    // What is lent for this call may be kept by the corrector.
    const own = Tensor.wrap(await x.data(), x.shape)
    const condition = (await o.conditionAt?.(i++, (await t.values())[0])) ?? o.condition
    const eT = await guided(core, own, t, { ...o, condition })
    const made = await o.corrector.modifyScore(o.model, eT, own, t, o.cond, o.kwargs)
    return checkScore(made, own.shape)
  }
  return core.withDenoiser(new FunctionDenoiser(device, denoiser, false))
}

async function guided(core: Core, x: Tensor, t: Tensor, { condition, negative }: Correction): Promise<Tensor> {
  const given = await applyModel(core, x, t, condition)
  if (!negative) return given
  const other = await (await applyModel(core, x, t, negative.condition)).data()
  const values = await given.data()
  return Tensor.wrap(
    values.map((v, i) => other[i] + negative.scale * (v - other[i])),
    x.shape,
  )
}

function checkScore(made: unknown, shape: Shape): Tensor {
  if (made instanceof Tensor && made.dtype === 'float32' && sameShape(made.shape, shape)) return made
  const expected = `modifyScore to return a float32 Tensor of shape [${shape.join(', ')}]`
  throw new DiffusionError('denoiser-output', `scoreCorrector: expected ${expected}`, {
    argument: 'scoreCorrector',
    expected,
  })
}
