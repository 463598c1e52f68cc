// The same noise as food, as a flag, ... with growing guidance: node examples/class-conditional.mjs [guidance.png] [steps]
import { loadModel, saveImages, Tensor } from 'ddpm-native'

const [file = 'guidance.png', steps = '25'] = process.argv.slice(2)

const ddpm = await loadModel() // the one that comes with the package
const classes = ['food', 'flags', 'animals', 'smileys']
const classLabels = classes.map((name) => ddpm.classLabel(name))
const rows = []
for (const guidanceScale of [0, 1, 2, 4]) {
  const options = { sampler: 'dpmsolver++', steps: Number(steps), seed: 3, classLabels, guidanceScale }
  const row = await ddpm.sample({ batchSize: classes.length, ...options })
  rows.push(...(await row.data()))
}
const all = Tensor.from(rows, [4 * classes.length, ddpm.channels, ddpm.imageSize, ddpm.imageSize])
await saveImages(file, all, { columns: classes.length, scale: 4 })
console.log(file)
ddpm.dispose()
