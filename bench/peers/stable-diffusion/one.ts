/** One measurement in this process: node one.js <peer> <part> <seconds> <threads> <folder> <format of our weights> <our precision> [--small]. Prints JSON. */
import { writeFileSync } from 'node:fs'
import { LatentDiffusion } from '../../../lib/diffusion/models/latent-diffusion'
import type { Precision, WeightFormat } from '../../../lib/native'
import { AutoencoderKL } from '../../../lib/stages/autoencoder-kl'
import { Tensor } from '../../../lib/tensor'
import { shapeOf } from '../../stable-diffusion/shape'
import { median } from '../compare'
import { processMemory } from '../memory'
import { loadOrt, type OrtTensor, sessionOptions } from '../ort'
import { decoderInputs, fileOf, type Input, type Measured, type Part, type Size, unetInputs } from './parts'

/** Runs once. */
type Step = () => Promise<Float32Array>

interface Job {
  readonly part: Part
  readonly size: Size
  readonly threads: number
  readonly folder: string
  /** Of ours. */
  readonly weightFormat: WeightFormat
  readonly precision: Precision
}

async function ours({ part, size, folder, weightFormat, precision }: Job): Promise<Step> {
  const files = fileOf(folder)
  const tensor = ({ data, shape }: Input) => Tensor.wrap(data, shape)
  if (part === 'decoder') {
    const stage = await AutoencoderKL.fromPretrained(files.vae, { device: 'cpu', weightFormat, precision })
    await stage.prepare()
    const z = tensor(decoderInputs(size).z)
    return async () => (await stage.decode(z)).data()
  }
  const model = await LatentDiffusion.fromPretrained(files.model, { device: 'cpu', weightFormat, precision })
  const { x, t, context } = unetInputs(size, widthOf(size))
  const [state, tokens] = [tensor(x), tensor(context)]
  return async () => (await model.applyModel(state, t, tokens)).data()
}

async function onnxruntime({ part, size, threads, folder }: Job): Promise<Step> {
  const ort = loadOrt()
  if (!ort) throw new Error('ONNX Runtime is not installed')
  const session = await ort.InferenceSession.create(fileOf(folder).onnx(part), sessionOptions(threads))
  const tensor = ({ data, shape }: Input) => new ort.Tensor('float32', data, shape)
  const feeds = (): Record<string, OrtTensor> => {
    if (part === 'decoder') return { z: tensor(decoderInputs(size).z) }
    const { x, t, context } = unetInputs(size, widthOf(size))
    const steps = new ort.Tensor('int64', BigInt64Array.from(t, BigInt), [t.length])
    return { x: tensor(x), t: steps, context: tensor(context) }
  }
  const given = feeds()
  return async () => (await session.run(given))[session.outputNames[0]].data
}

const widthOf = ({ small }: Size) => shapeOf(small).unet.contextDim!

const peers: Readonly<Record<string, (job: Job) => Promise<Step>>> = { ours, onnxruntime }

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const begin = performance.now()
  const result = await work()
  return [result, performance.now() - begin]
}

async function main([peer, part, seconds, threads, folder, format, precisionName, flag]: string[]): Promise<void> {
  const [weightFormat, precision] = [format as WeightFormat, precisionName as Precision]
  const size = { small: flag === '--small' }
  const job: Job = { part: part as Part, size, threads: Number(threads), folder, weightFormat, precision }
  const [step, openMs] = await timed(() => peers[peer](job))
  const [result, firstMs] = await timed(step)
  const times: number[] = []
  for (const begin = performance.now(); times.length < 3 || performance.now() - begin < 1000 * Number(seconds); ) {
    times.push((await timed(step))[1])
  }
  const { residentBytes, peakBytes } = processMemory()
  writeFileSync(
    fileOf(folder).result(peer, job.part),
    new Uint8Array(result.buffer, result.byteOffset, result.byteLength),
  )
  const measured: Measured = {
    version: peer === 'onnxruntime' ? (loadOrt()?.env.versions.node ?? '') : '',
    ...{ openMs, firstMs, medianMs: median(times), minMs: Math.min(...times), samples: times.length },
    ...{ residentBytes, peakBytes },
  }
  console.log(JSON.stringify(measured))
  process.exit(0) // without waiting for what either would still free
}

void main(process.argv.slice(2))
