// An image drawn anew by a prompt: node examples/image-to-image.mjs <folder or hub name> photo.png "a red cat" [picture.png] [steps]
import { loadModel, readImage, saveImages } from 'ddpm-native'

const [model, photo, prompt, file = 'picture.png', steps = '25'] = process.argv.slice(2)
if (!prompt) {
  console.error('node examples/image-to-image.mjs <folder or hub name> photo.png "a red cat" [picture.png] [steps]')
  process.exit(2)
}

const ldm = await loadModel(model)
const [, height, width] = ldm.sampleShape
const image = await readImage(photo, { size: [height, width] })
// 0 leaves the image as it is, 1 takes nothing of it.
const options = { image, strength: 0.6, prompt, guidanceScale: 7.5, batchSize: 1, seed: 1 }
await saveImages(file, await ldm.sample({ ...options, sampler: 'ddim', steps: Number(steps) }))
console.log(file)
ldm.dispose()
