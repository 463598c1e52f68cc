// Trains a small model on a folder of images, and goes on where it stopped when it is started again:
// node examples/train.mjs <folder> [run] [steps]
import { Trainer } from 'ddpm-native'

const [data, out = 'runs/example', steps = '2000'] = process.argv.slice(2)

const stop = new AbortController()
process.once('SIGINT', () => stop.abort()) // ends after the step under way, with a checkpoint

const trainer = new Trainer({
  data,
  out,
  resume: true,
  model: {
    betaSchedule: 'cosine',
    unetConfig: {
      imageSize: 32,
      modelChannels: 32,
      channelMult: [1, 2, 2],
      numResBlocks: 1,
      attentionResolutions: [4],
    },
  },
  steps: Number(steps),
  warmup: 200,
  lr: 5e-4,
  sampleEvery: 500,
  sampleSteps: 50,
})
const { step, checkpoint, model } = await trainer.run({
  signal: stop.signal,
  onStep: ({ step, loss }) => step % 20 === 0 && console.log(`step ${step}: loss ${loss.toFixed(4)}`),
})
console.log(model ?? `stopped at step ${step}: ${checkpoint}`)
