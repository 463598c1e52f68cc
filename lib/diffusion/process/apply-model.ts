/** The network's output alone: DDPM's self.model(x, t), LatentDiffusion's apply_model. */
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { type Condition, kindOf } from './condition'
import { type Core, extentOf } from './core'
import { denoise, denoiserBindings } from './preconditioning'
import { parseTimesteps, type Timesteps } from './timesteps'

/** x_t [n, c, h, w] to what the network says of it, [n, c, h, w] or with a learned variance [n, 2c, h, w]. */
export async function applyModel(core: Core, x: Tensor, t: Timesteps, condition: Condition): Promise<Tensor> {
  checkTensor(x, 'x')
  core.denoiser.check(x.shape, 'x')
  const { shape } = x
  const { n, d } = extentOf(shape, 'x')
  const steps = await parseTimesteps(t, n, core.numTimesteps)
  const kind = kindOf(condition)
  const program = await core.networkProgram('apply', { shape: shape.join('x'), ...kind }, (g) => {
    const state = g.input('x', [n, 1, 1, d])
    const mode = { train: false, condition: kind }
    const { prediction, variance } = denoise(core, g, { x: state, t: g.input('t', [n, 1, 1, 1], 'i32'), shape, mode })
    return { out: variance ? g.concat([prediction, variance]) : prediction }
  })
  const binding = await x.binding(core.device)
  const state = ArrayBuffer.isView(binding) ? core.device.upload(binding) : binding
  try {
    const given = await denoiserBindings(core, { x: state, t: steps, shape, condition })
    const { out } = await program.run({ x: state, t: steps, ...given })
    const [, channels, ...rest] = shape
    const whole: Shape = [n, (out.length / (n * d)) * channels, ...rest]
    return Tensor.wrap(out, whole)
  } finally {
    if (state !== binding) state.release()
  }
}
