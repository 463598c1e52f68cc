// Draws 16 emoji with the model that comes with the package: node examples/sample.mjs [samples.png] [steps]
import { loadModel, saveImages } from 'ddpm-native'

const [file = 'samples.png', steps = '25'] = process.argv.slice(2)

const ddpm = await loadModel() // the one that comes with the package
const classLabels = Array.from({ length: 16 }, (_, i) => i % ddpm.classNames.length)
const samples = await ddpm.sample({ batchSize: 16, sampler: 'dpmsolver++', steps: Number(steps), classLabels, seed: 7 })
await saveImages(file, samples, { scale: 4 })
console.log(file)
ddpm.dispose()
