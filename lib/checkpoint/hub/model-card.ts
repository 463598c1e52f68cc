/** README.md of a model on the hub: what can be said of it from its configuration alone. */
import { writeYaml } from '../yaml'

export interface CardFacts {
  /** 'owner/name'. */
  readonly name: string
  /** Other than main. */
  readonly revision?: string
  /** Such as 'mit'. Left out where it is not given. */
  readonly license?: string
  /** [channels, height, width]. */
  readonly images: readonly [number, number, number]
  readonly parameters: number
  /** How many there are; undefined for a model without. */
  readonly classes?: number
  readonly classNames: readonly string[]
  readonly nullClass?: number
  readonly timesteps: number
  /** Such as 'linear'. */
  readonly schedule: string
  /** 'eps', 'x0', 'v', 'edm' or 'flow'. */
  readonly predicts: string
  readonly variant?: string
  readonly averaged: boolean
}

const predictions: Readonly<Record<string, string>> = {
  eps: 'the noise',
  x0: 'the image',
  edm: "EDM's F",
  flow: 'the velocity of a flow',
}
/** Others are sampled by a pipeline. */
const schedulers: Readonly<Record<string, string>> = {
  edm: 'EDMEulerScheduler',
  flow: 'FlowMatchEulerDiscreteScheduler',
}

export function modelCard(facts: CardFacts): string {
  const { name, revision, license, images, parameters, classes, classNames, nullClass, timesteps, variant } = facts
  const kind = classes === undefined ? 'unconditional-image-generation' : 'class-conditional-image-generation'
  const front = {
    ...(license && { license }),
    library_name: 'diffusers',
    ...(classes === undefined && { pipeline_tag: kind }),
    tags: ['ddpm', 'ddpm-native', 'diffusers', kind],
  }
  const [channels, height, width] = images
  const named = classNames.length > 0 ? `: ${classNames.map((text) => text.replace(/\s+/g, ' ')).join(', ')}` : ''
  const none = nullClass === undefined ? '' : ` Label ${nullClass} stands for no class.`
  const lines = [
    `- images: ${width}x${height}, ${channels} ${channels === 1 ? 'channel' : 'channels'}`,
    `- parameters: ${parameters}${facts.averaged ? ', averaged over the training' : ''}`,
    `- classes: ${classes === undefined ? 'none' : `${classes}${named}.${none}`}`,
    `- schedule: ${facts.schedule}, ${timesteps} timesteps; the network predicts ${predictions[facts.predicts] ?? facts.predicts}`,
  ]
  const js = Object.entries({ revision, variant }).filter(([, value]) => value !== undefined)
  const options = js.map(([key, value]) => `${key}: '${value}'`).join(', ')
  const python = js.map(([key, value]) => `, ${key}='${value}'`).join('')
  const label = classes === undefined ? '' : ', classLabels: [0, 0, 0, 0]'
  return `---
${writeYaml(front)}---

# ${name.split('/')[1]}

A denoising diffusion model, written by [ddpm-native](https://www.npmjs.com/package/ddpm-native) in diffusers' layout.

${lines.join('\n')}

## With ddpm-native

\`\`\`js
import { DDPM, saveImages } from 'ddpm-native'

const ddpm = await DDPM.fromPretrained('${name}'${options ? `, { ${options} }` : ''})
const images = await ddpm.sample({ batchSize: 4, steps: ${Math.min(50, timesteps)}${label} })
await saveImages('samples.png', images)
\`\`\`

## With diffusers

${classes === undefined && !schedulers[facts.predicts] ? pipeline(name, python) : networkAlone(facts, python)}`
}

function pipeline(name: string, options: string): string {
  return `\`\`\`python
from diffusers import DiffusionPipeline

images = DiffusionPipeline.from_pretrained('${name}'${options})(batch_size=4).images
\`\`\`
`
}

/** Its pipelines hand on no class labels, and are for schedulers of discrete timesteps. */
function networkAlone({ name, classes, predicts }: CardFacts, options: string): string {
  const scheduler = schedulers[predicts] ?? 'DDPMScheduler'
  const why =
    classes === undefined
      ? '`DDPMPipeline` has another scheduler than this model needs.'
      : '`DDPMPipeline` passes no class labels, which the network needs: `unet(x, t, class_labels=labels)`.'
  return `${why}

\`\`\`python
from diffusers import ${scheduler}, UNet2DModel

unet = UNet2DModel.from_pretrained('${name}', subfolder='unet'${options})
scheduler = ${scheduler}.from_pretrained('${name}', subfolder='scheduler'${options.replace(/, variant='[^']*'/, '')})
\`\`\`
`
}
