// Keeps the left half of an image and draws the right one anew, four times:
// node examples/inpaint.mjs <image> [inpainted.png] [steps]
import { loadModel, readImage, saveImages, Tensor } from 'ddpm-native'

const [image, file = 'inpainted.png', steps = '100'] = process.argv.slice(2)
const count = 4

const ddpm = await loadModel() // the one that comes with the package
const size = ddpm.imageSize
const pixels = await (await readImage(image, { size })).data()
const left = Float32Array.from({ length: size * size }, (_, i) => (i % size < size / 2 ? 1 : 0))
const samples = await ddpm.sample({
  batchSize: count,
  image: Tensor.from(Array.from({ length: count }, () => [...pixels]).flat(), [count, 3, size, size]),
  mask: Tensor.from(left, [1, 1, size, size]), // 1 keeps the pixel
  classLabels: ddpm.nullClass, // any class
  steps: Number(steps),
  seed: 1,
})
await saveImages(file, samples, { columns: count, scale: 4 })
console.log(file)
ddpm.dispose()
