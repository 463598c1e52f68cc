/** LatentDiffusion by a golden file's configuration, with its weights. */
import { type DeviceName, LatentDiffusion, type StateDict, type Tensor } from '../../../lib/index'
import { AutoencoderKL } from '../../../lib/stages/autoencoder-kl'
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

export async function goldenLatent(fixture: Fixture, device: DeviceName, options = {}): Promise<LatentDiffusion> {
  const { ldm, scale_factor: scaleFactor = ldm.scale_factor } = fixture.config
  const { firstStageConfig, condStageConfig, unetConfig, scaleByStd: _, numTimestepsCond: __, ...own } = camelCased(ldm)
  const kind = firstStageConfig.target.split('.').pop() as keyof typeof firstStages
  const { lossconfig: _lossconfig, ...params } = firstStageConfig.params
  const { doubleZ: _doubleZ, ...ddconfig } = params.ddconfig
  const firstStage = new firstStages[kind]({ ...params, ddconfig: { ...ddconfig, doubleZ: _doubleZ }, device })
  const unconditional = condStageConfig === '__is_unconditional__'
  // Conditions are given in these tests.
  const condStage = unconditional ? {} : { condStage: { encode: async (c: never) => c as Tensor } }
  const model = new LatentDiffusion({
    ...own,
    ...condStage,
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
  await model.loadStateDict(within('model.diffusion_model.', fits), { strict: false })
  await firstStage.loadStateDict(within('first_stage_model.', () => true))
  return model
}
