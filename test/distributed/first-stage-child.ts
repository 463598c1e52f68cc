// A rank of the trainings of two first stages, with a posterior and with a codebook.
import assert from 'node:assert/strict'
import { AutoencoderKL, AutoencoderTrainer, AutoencoderTraining, type AutoencoderTrainOptions } from '../../lib/index'

const sizes = { ch: 32, chMult: [1, 1], numResBlocks: 1, inChannels: 3, outCh: 3, attnResolutions: [] }

/** `accumulate`: batches of a step of this process. */
export async function trainFirstStages(folder: string, out: string, own: Partial<AutoencoderTrainOptions>) {
  const ddconfig = { ch: 32, chMult: [1, 1], numResBlocks: 1, dropout: 0.1 }
  const shared = { data: `${folder}/photos`, size: [16, 16], ddconfig, warmup: 0, batchSize: 1, sampleEvery: 0, ...own }
  const held = { validation: 0.2, validationEvery: 1, device: 'cpu' }
  await new AutoencoderTrainer({ ...shared, ...held, out: `${out}-kl` }).run()
  await new AutoencoderTrainer({ ...shared, ...held, out: `${out}-vq`, nEmbed: 16, maxGradNorm: 1 }).run()
}

async function main(): Promise<void> {
  const [folder, out, steps, accumulate] = process.argv.slice(2)
  const own = { steps: Number(steps), accumulate: Number(accumulate), resume: true }
  await trainFirstStages(folder, out, own)
  using stage = new AutoencoderKL({ embedDim: 3, ddconfig: { ...sizes, zChannels: 3, resolution: 32 }, device: 'cpu' })
  const refused = { code: 'unsupported', argument: 'discStart' }
  assert.throws(() => new AutoencoderTraining(stage, { discStart: 0 }), refused)
  new AutoencoderTraining(stage, { discStart: 0, distributed: 'off' }).dispose()
}

if (require.main === module) {
  main().catch((error) => {
    console.error(error)
    process.exit(1)
  })
}
