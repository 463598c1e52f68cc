/** The samplers' names, here and elsewhere. */
import { DiffusionError, describe } from '../../errors'
import { closest } from '../../options'
import { type SigmaSchedule, sigmaSchedules } from './sigmas'

/** By name: what k-diffusion, ComfyUI, AUTOMATIC1111 and diffusers call it. */
const names = {
  ddpm: ['DDPMScheduler'],
  ddim: ['DDIM', 'DDIMScheduler'],
  plms: ['PLMS', 'PNDMScheduler'],
  euler: ['Euler', 'EulerDiscreteScheduler'],
  'euler-ancestral': ['euler_ancestral', 'Euler a', 'EulerAncestralDiscreteScheduler'],
  heun: ['Heun', 'HeunDiscreteScheduler'],
  lms: ['LMS', 'LMSDiscreteScheduler'],
  kdpm2: ['dpm_2', 'DPM2', 'KDPM2DiscreteScheduler'],
  'kdpm2-ancestral': ['dpm_2_ancestral', 'DPM2 a', 'KDPM2AncestralDiscreteScheduler'],
  'dpmsolver++': ['dpmpp_2m', 'DPM++ 2M', 'DPMSolverMultistepScheduler'],
  'sde-dpmsolver++': ['dpmpp_2m_sde', 'DPM++ 2M SDE'],
  'dpmsolver++singlestep': ['DPMSolverSinglestepScheduler'],
  'dpmsolver++2s-ancestral': ['dpmpp_2s_ancestral', 'DPM++ 2S a'],
  'dpmsolver++sde': ['dpmpp_sde', 'DPM++ SDE', 'DPMSolverSDEScheduler'],
  deis: ['DEIS', 'DEISMultistepScheduler'],
  lcm: ['LCM', 'LCMScheduler'],
  unipc: ['uni_pc', 'uni_pc_bh2', 'UniPC', 'UniPCMultistepScheduler'],
} as const satisfies Readonly<Record<string, readonly string[]>>

export type Sampler = keyof typeof names
type Other = (typeof names)[Sampler][number]
/** In TypeScript by these spellings; JavaScript may write them in another case, and with other dashes and spaces. */
export type SamplerName = Sampler | Other | `${Other} ${'Karras' | 'Exponential' | 'Beta'}`
export const samplers = Object.keys(names) as readonly Sampler[]

/** Of k-diffusion and others, and not here. */
const absent = ['dpm_fast', 'dpm_adaptive', 'ipndm', 'dpmpp_3m_sde', 'Restart', 'EDMEulerScheduler']

export interface NamedSampler {
  readonly sampler: Sampler
  /** Where the name ends in one of them, such as 'DPM++ 2M Karras'. */
  readonly sigmas?: Exclude<SigmaSchedule, 'uniform'>
}

/** Letters, digits and plus signs, without the prefixes of k-diffusion's functions and AUTOMATIC1111's names. */
function plain(name: string): string {
  return name
    .toLowerCase()
    .replace(/^(sample|k)_/, '')
    .replace(/[^a-z0-9+]/g, '')
}

const byPlainName = new Map(
  Object.entries(names).flatMap(([name, others]) => [name, ...others].map((n) => [plain(n), name as Sampler] as const)),
)

/** Throws `invalid-argument` for an unknown name. */
export function samplerNamed(name: unknown): NamedSampler {
  const full = typeof name === 'string' ? plain(name) : ''
  const sampler = byPlainName.get(full)
  if (sampler) return { sampler }
  for (const sigmas of sigmaSchedules) {
    const short = full.endsWith(sigmas) ? byPlainName.get(full.slice(0, -sigmas.length)) : undefined
    if (short && sigmas !== 'uniform') return { sampler: short, sigmas }
  }
  const expected = `one of ${samplers.map((s) => `'${s}'`).join(', ')}, or a name of k-diffusion or AUTOMATIC1111 for one of them`
  const likely = typeof name === 'string' ? closest(name, samplers) : undefined
  const hint = likely ? `; did you mean '${likely}'?` : ''
  const known = absent.some((other) => plain(other) === full) ? 'is not available' : 'is no sampler'
  const received = describe(name)
  throw new DiffusionError('invalid-argument', `sampler: ${received} ${known}; expected ${expected}${hint}`, {
    argument: 'sampler',
    expected,
    received,
  })
}
