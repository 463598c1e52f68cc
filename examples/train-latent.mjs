// Trains a first stage, and on its latents a model that draws by a text. Captions are a .txt file beside each image, or metadata.jsonl:
// node examples/train-latent.mjs <folder> "a red apple" [runs] [steps]
import path from 'node:path'
import { AutoencoderTrainer, loadModel, saveImages, Trainer } from 'ddpm-native'

const [data, prompt, runs = 'runs', steps = '2000'] = process.argv.slice(2)
if (!prompt) {
  console.error('node examples/train-latent.mjs <folder> "a red apple" [runs] [steps]')
  process.exit(2)
}
const [vae, latent] = [path.join(runs, 'vae'), path.join(runs, 'latent')]
const shared = { data, size: [32, 32], steps: Number(steps), batchSize: 8, lr: 5e-4, sampleEvery: 0, resume: true }
const onStep = ({ step, loss }) => step % 20 === 0 && console.log(`step ${step}: loss ${loss.toFixed(4)}`)

// Images of 32x32 to latents of 8x8 in 4 channels.
await new AutoencoderTrainer({ ...shared, out: vae, ddconfig: { ch: 32, chMult: [1, 2, 2] } }).run({ onStep })

const trainer = new Trainer({
  ...shared,
  out: latent,
  firstStage: vae,
  textEncoder: { nEmbed: 128, nLayer: 2 },
  model: { parameterization: 'v', unetConfig: { channelMult: [1, 2], numResBlocks: 1, attentionResolutions: [1, 2] } },
})
await trainer.run({
  onStep,
  onProgress: ({ what, done, total }) => done === total && console.log(`${what}: ${total} images`),
})

const ldm = await loadModel(latent)
const images = await ldm.sample({ prompt, guidanceScale: 3, batchSize: 4, seed: 1, sampler: 'dpmsolver++', steps: 20 })
await saveImages('latent.png', images, { columns: 2 })
console.log('latent.png')
ldm.dispose()
