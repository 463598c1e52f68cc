// Pictures of a prompt, by a latent model: node examples/text-to-image.mjs <folder or hub name> "a red cat" [pictures.png] [steps]
import { loadModel, saveImages } from 'ddpm-native'

const [model, prompt, file = 'pictures.png', steps = '25'] = process.argv.slice(2)

const ldm = await loadModel(model)
const images = await ldm.sample({
  prompt,
  negativePrompt: '',
  guidanceScale: 7.5,
  batchSize: 2,
  seed: 1,
  sampler: 'dpmsolver++',
  steps: Number(steps),
  onStep: ({ step, total }) => process.stderr.write(`\r${step}/${total}`),
})
for (const warning of ldm.warnings()) console.warn(warning)
await saveImages(file, images, { columns: 2 })
console.log(file)
ldm.dispose()
