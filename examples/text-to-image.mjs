// Pictures of a prompt, by a latent model: node examples/text-to-image.mjs <folder or hub name> "a red cat" [pictures.png] [steps]
import { loadModel, saveImages } from 'ddpm-native'

const [model, prompt, file = 'pictures.png', steps = '25'] = process.argv.slice(2)
if (!prompt) {
  console.error('node examples/text-to-image.mjs <folder or hub name> "a red cat" [pictures.png] [steps]')
  process.exit(2)
}

const ldm = await loadModel(model)
const images = await ldm.sample({
  prompt,
  negativePrompt: '',
  guidanceScale: 7.5,
  batchSize: 2,
  seed: 1,
  sampler: 'dpmsolver++',
  steps: Number(steps),
  onStep: async ({ step, total, predX0 }) => {
    process.stderr.write(`\r${step}/${total}${step === total ? '\n' : ''}`)
    // Small, and without the decoder.
    await saveImages('forming.png', await ldm.previewLatents(predX0), { columns: 2 })
  },
})
for (const warning of ldm.warnings()) console.warn(warning)
await saveImages(file, images, { columns: 2 })
console.log(file)
ldm.dispose()
