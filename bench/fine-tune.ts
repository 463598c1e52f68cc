/**
 * What starting from a model is worth: the shipped one, and a new network of the same options, are trained for as many steps on 40
 * pictures of one kind (faces that the script draws), and the first once more by low-rank updates alone. Prints the loss of 24 held-out
 * faces, the size of the updates and how far the images with them beside the weights are from those with them merged, and writes
 * samples before and after.
 * Usage: npm run build:ts && node dist/bench/fine-tune.js [--steps n] [--rank n] [--out folder]
 */
import { statSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type DDPM, loadModel, type RunResult, saveImages, Trainer, type TrainOptions } from '../lib/index'
import { drawPictures, face } from './drawings'

const drawn = { batchSize: 16, steps: 50, sampler: 'dpmsolver++', seed: 1 } as const

async function sheet(ddpm: DDPM, file: string): Promise<Float32Array> {
  const images = await ddpm.sample({ ...drawn, classLabels: ddpm.nullClass })
  await saveImages(file, images, { columns: 8, scale: 3 })
  return images.data()
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      steps: { type: 'string', default: '300' },
      rank: { type: 'string', default: '4' },
      out: { type: 'string', default: 'fine-tune' },
    },
  })
  const at = (name: string) => path.join(values.out, name)
  const data = await drawPictures(at('faces'), 40, 1, face)
  const validation = await drawPictures(at('held-out'), 24, 2, face)
  const shipped = path.join(__dirname, '..', '..', 'models', 'emoji-32.safetensors')
  using before = await loadModel(shipped)
  await sheet(before, at('before.png'))
  const steps = Number(values.steps)
  const common: TrainOptions = {
    data,
    validation,
    out: '',
    steps,
    validationEvery: steps,
    batchSize: 16,
    warmup: Math.floor(steps / 10),
    sampleEvery: 0,
    checkpointEvery: steps,
    flip: false,
  }
  const { classNames: _, useEma: __, precision: ___, ...config } = before.config
  const model = { emaDecay: 0.98 }
  const runs: Record<string, Partial<TrainOptions>> = {
    fresh: { lr: 5e-4, model: { ...(config as TrainOptions['model']), ...model } },
    'fine-tuned': { lr: 2e-4, from: shipped, model },
    'low-rank': { lr: 2e-3, from: shipped, model: { ...model, lora: { rank: Number(values.rank) } } },
  }
  const losses: Record<string, number> = {}
  const results: Record<string, RunResult> = {}
  for (const [name, options] of Object.entries(runs)) {
    let loss = Number.NaN
    const trainer = new Trainer({ ...common, ...options, out: at(name) })
    results[name] = await trainer.run({
      onEvaluation({ scalars }) {
        loss = scalars['val/loss_simple_ema']
      },
    })
    losses[name] = loss
    using ddpm = await loadModel(results[name].model!)
    await sheet(ddpm, at(`${name}.png`))
    console.log(`${name.padEnd(12)} val/loss_simple_ema ${loss.toFixed(5)} after ${steps} steps`)
  }
  console.log(`fresh / fine-tuned ${(losses.fresh / losses['fine-tuned']).toFixed(2)}`)
  const lora = path.join(at('low-rank'), 'lora.safetensors')
  const images = await Promise.all(
    [true, false].map(async (mergeLoras) => {
      using ddpm = await loadModel(shipped, { loras: [{ path: lora }], mergeLoras })
      return (await ddpm.sample({ ...drawn, classLabels: ddpm.nullClass })).data()
    }),
  )
  const difference = images[0].reduce((most, v, i) => Math.max(most, Math.abs(v - images[1][i])), 0)
  console.log(
    `low-rank updates: ${statSync(lora).size} bytes; merged and beside differ by ${difference.toExponential(1)} at most`,
  )
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})
