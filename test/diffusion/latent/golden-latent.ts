/** LatentDiffusion by a golden file's configuration, with its weights. */
import { type DeviceName, LatentDiffusion, type StateDict, type Tensor } from '../../../lib/index'
import { AutoencoderKL } from '../../../lib/stages/autoencoder-kl'
import { ClassEmbedder } from '../../../lib/stages/class-embedder'
import { SpatialRescaler } from '../../../lib/stages/spatial-rescaler'
import { Stage } from '../../../lib/stages/stage'
import { VQModelInterface } from '../../../lib/stages/vq-model'
import { Fixture } from '../fixture'

const camel = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())

// biome-ignore lint/suspicious/noExplicitAny: each file's configuration has a form of its own
export function camelCased(value: any): any {
  if (Array.isArray(value)) return value.map(camelCased)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [camel(name), camelCased(inner)]))
}

/** The file's parameters over those of the files it refers to. */
export async function goldenParameters(fixture: Fixture): Promise<StateDict> {
  const base = fixture.config.params_from
  const dict = base ? await goldenParameters(await Fixture.load(`ldm/${base.replace('.safetensors', '')}`)) : {}
  for (const name of fixture.names('param/')) dict[name] = fixture.tensor(`param/${name}`)
  return dict
}

const firstStages = { AutoencoderKL, VQModelInterface }

/** The stage that the file names; torch.nn.Identity gives what it is given. */
function condStageOf(config: ReturnType<typeof camelCased>, device: DeviceName) {
  const { target, params } = config
  if (target.endsWith('ClassEmbedder')) return new ClassEmbedder({ ...params, device })
  if (target.endsWith('SpatialRescaler')) return new SpatialRescaler({ ...params, device })
  return { encode: async (c: never) => c as Tensor }
}

export async function goldenLatent(fixture: Fixture, device: DeviceName, options = {}): Promise<LatentDiffusion> {
  const { ldm, scale_factor: scaleFactor = ldm.scale_factor } = fixture.config
  const { firstStageConfig, condStageConfig, unetConfig, scaleByStd: _, ...own } = camelCased(ldm)
  const kind = firstStageConfig.target.split('.').pop() as keyof typeof firstStages
  const { lossconfig: _lossconfig, ...params } = firstStageConfig.params
  const { doubleZ: _doubleZ, ...ddconfig } = params.ddconfig
  const firstStage = new firstStages[kind]({ ...params, ddconfig: { ...ddconfig, doubleZ: _doubleZ }, device })
  const unconditional = condStageConfig === '__is_unconditional__'
  const condStage = unconditional ? undefined : condStageOf(condStageConfig, device)
  const model = new LatentDiffusion({
    ...own,
    ...(condStage && { condStage }),
    scaleFactor,
    unetConfig: unetConfig.params,
    firstStage,
    device,
    ...options,
  })
  const dict = await goldenParameters(fixture)
  const within = (prefix: string, known: (name: string) => boolean) =>
    Object.fromEntries(
      Object.entries(dict).flatMap(([name, tensor]) => {
        const inner = name.startsWith(prefix) ? name.slice(prefix.length) : undefined
        return inner !== undefined && known(inner) ? [[inner, tensor]] : []
      }),
    )
  const slots = new Map(model.network!.parameters.slots.map(({ name, shape }) => [name, shape.join()]))
  const fits = (name: string) => slots.get(name) === dict[`model.diffusion_model.${name}`].shape.join()
  const averages = fixture
    .names('ema/model.')
    .map((name) => [`model_ema.${name.replaceAll('.', '')}`, fixture.tensor(`ema/model.${name}`)])
  const trained = Object.entries(within('model.diffusion_model.', fits)).map(([name, tensor]) => [
    `model.diffusion_model.${name}`,
    tensor,
  ])
  await model.loadStateDict(Object.fromEntries([...trained, ...averages]), { strict: false })
  await firstStage.loadStateDict(within('first_stage_model.', () => true))
  const ofCond = within('cond_stage_model.', () => true)
  if (condStage && condStage instanceof Stage && Object.keys(ofCond).length > 0) await condStage.loadStateDict(ofCond)
  return model
}
