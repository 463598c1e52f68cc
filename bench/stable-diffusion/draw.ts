/**
 * Draws one image of a Stable Diffusion model, a diffusers folder or a single file: time of the text encoder, of a step and of the decoder
 * (the first use of each reads weights and makes a program), peak memory after each, the machine's FMA peak.
 * Usage: npm run build:ts && node dist/bench/stable-diffusion/draw.js MODEL [--steps 10] [--size 512] [--guidance 7.5]
 *        [--sampler dpmsolver++] [--precision fp32] [--weight-format fp32] [--offload] [--most 12e9]
 * --offload gives each stage's memory back after its use; --most ends the process where it takes more bytes.
 */
import { readFileSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { LatentDiffusion, type LatentSampleOptions, Tensor } from '../../lib/index'
import { native } from '../../lib/native'

const { values, positionals } = parseArgs({
  options: {
    steps: { type: 'string', default: '10' },
    size: { type: 'string', default: '512' },
    guidance: { type: 'string', default: '7.5' },
    sampler: { type: 'string', default: 'dpmsolver++' },
    precision: { type: 'string', default: 'fp32' },
    'weight-format': { type: 'string', default: 'fp32' },
    offload: { type: 'boolean', default: false },
    most: { type: 'string' },
  },
  allowPositionals: true,
})

/** Bytes that the process takes and has taken at most. */
function memory(): { now: number; peak: number } {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bytes = (name: string) => 1024 * Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1])
  return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`

function say(what: string, text: string): void {
  const { now, peak } = memory()
  console.log(`${what.padEnd(22)}${text.padEnd(44)}${gigabytes(now)} now, ${gigabytes(peak)} at most`)
}

async function timed<T>(what: string, fn: () => Promise<T>): Promise<T> {
  const begin = performance.now()
  const result = await fn()
  say(what, seconds(performance.now() - begin))
  return result
}

async function main(): Promise<void> {
  const [source] = positionals
  if (!source) throw new Error('usage: draw.js MODEL [options]')
  const threads = availableParallelism()
  console.log(`${threads} threads, FMA peak ${native.measureFmaPeak(threads, 1).toFixed(0)} GFLOP/s`)
  const watch = values.most && setInterval(() => tooMuch(Number(values.most)), 200)
  const settings = { device: 'cpu', precision: values.precision, weightFormat: values['weight-format'] } as const
  using model = await timed('open', () => {
    const o = settings as { device: 'cpu'; precision: 'fp32'; weightFormat: 'fp32' }
    return statSync(source).isDirectory()
      ? LatentDiffusion.fromPretrained(source, o)
      : LatentDiffusion.fromSingleFile(source, o)
  })
  const text = () => model.getLearnedConditioning(['the red cat', ''])
  const both = await timed('text, first', text)
  await timed('text', text)
  const [cond, uncond] = await halves(both)
  const give = async () => {
    if (values.offload) await model.offload()
  }
  await give()
  const size = Number(values.size)
  const times: number[] = []
  let last = performance.now()
  const onStep = () => {
    times.push(performance.now() - last)
    last = performance.now()
  }
  const options: LatentSampleOptions = {
    ...{ cond, uncond, guidanceScale: Number(values.guidance), steps: Number(values.steps), seed: 1 },
    ...{
      height: size,
      width: size,
      batchSize: 1,
      outputType: 'latent',
      sampler: values.sampler as 'dpmsolver++',
      onStep,
      timestepSpacing: 'linspace', // whatever the folder's scheduler says
    },
  }
  const latents = await timed(`${values.steps} steps`, () => model.sample(options))
  const [first, ...rest] = times
  const median = [...rest].sort((a, b) => a - b)[Math.floor(rest.length / 2)]
  say('a step', `${seconds(median)} (median), the first ${seconds(first)}`)
  await give()
  const images = await timed('decoder, first', () => model.decodeFirstStage(latents))
  await timed('decoder', () => model.decodeFirstStage(latents))
  const pixels = await images.data()
  const sum = pixels.reduce((total, v) => total + v, 0)
  console.log(`${images.shape.join('x')}, mean ${(sum / pixels.length).toPrecision(6)}`)
  if (watch) clearInterval(watch)
}

/** The condition of the prompt, and that of none. */
async function halves(both: Tensor): Promise<[Tensor, Tensor]> {
  const [, length, width] = both.shape
  const data = await both.data()
  const half = length * width
  const part = (i: number) => Tensor.from(data.slice(i * half, (i + 1) * half), [1, length, width])
  return [part(0), part(1)]
}

function tooMuch(most: number): void {
  const { now } = memory()
  if (now <= most) return
  console.log(`${gigabytes(now)} resident, more than --most`)
  process.exit(1)
}

main()
