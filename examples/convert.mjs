// Opens a folder in diffusers' layout, such as google/ddpm-cifar10-32, and writes it as a diffusers folder again and as an ONNX file:
// node examples/convert.mjs <folder> [target folder] [model.onnx]
import { DDPM } from 'ddpm-native'

const [folder, target = 'converted', onnx = 'model.onnx'] = process.argv.slice(2)

const ddpm = await DDPM.fromPretrained(folder)
console.log(`${ddpm.parameterCount} parameters, ${ddpm.numTimesteps} timesteps`)
await ddpm.savePretrained(target)
await ddpm.exportOnnx(onnx)
console.log(target, onnx)
ddpm.dispose()
