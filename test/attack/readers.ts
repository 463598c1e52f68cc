/** Everything of the library that opens a file which somebody else may have made, by name. */
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { readJsonFile } from '../../lib/checkpoint/json'
import { readSafetensors, readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { readYaml } from '../../lib/checkpoint/yaml'
import { readSource } from '../../lib/convert/source'
import { classLabels } from '../../lib/data/class-labels'
import { Dataset } from '../../lib/data/dataset'
import { readImage } from '../../lib/data/image-file'
import { ImageFolder } from '../../lib/data/image-folder'
import { readPart } from '../../lib/data/parts/part-file'
import { readCompVisConfig } from '../../lib/diffusion/formats/compvis-config'
import { readPretrained } from '../../lib/diffusion/formats/pretrained'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { schedulerPlan } from '../../lib/diffusion/sampling/diffusers/plans'
import { openFeatures } from '../../lib/evaluate/features-file'
import { InceptionV3 } from '../../lib/evaluate/inception-v3'
import { readStatistics } from '../../lib/evaluate/statistics-file'
import { FrozenCLIPEmbedder } from '../../lib/stages/text/clip'
import { VQModelInterface } from '../../lib/stages/vq-model'
import { Tokenizer } from '../../lib/text/tokenizer'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import { MetricsLog } from '../../lib/train/metrics'
import { loadModelFile } from '../../lib/train/model-file'
import { RunLock } from '../../lib/train/run-lock'
import { mergeFiles, openEvaluations } from '../../lib/trainer/evaluation-file'
import { Trainer } from '../../lib/trainer/trainer'
import { tinyModel } from '../train/support'

/** Reads what the path is of. What it makes is dropped. */
type Reader = (file: string) => Promise<unknown>

const unetConfig = { inChannels: 3, outChannels: 3, ...tinyModel.unetConfig }

/** As a training opens it, and its first batch. */
async function readData(file: string, channels = 3): Promise<void> {
  const data = await Dataset.open(file, { size: 8, channels, range: [0, 1], cacheBytes: 0 })
  await data.batch(0, 2)
}

export const readers: Readonly<Record<string, Reader>> = {
  safetensors: readSafetensors,
  'safetensors-header': readSafetensorsHeader,
  'state-dict': (file) => readStateDictFile(file),
  torch: (file) => withTorchFile(file, async ({ value }) => value),
  'init-from-ckpt': async (file) => {
    using ddpm = new DDPM({ ...tinyModel, unetConfig, device: 'cpu' })
    await ddpm.initFromCkpt(file)
  },
  inception: async (file) => (await InceptionV3.fromFile(file, { device: 'cpu' })).release(),
  json: readJsonFile,
  yaml: readYaml,
  'compvis-config': (file) => readCompVisConfig(file),
  'from-config': async (file) => (await DDPM.fromConfig(file, { device: 'cpu' })).dispose(),
  scheduler: async (file) => schedulerPlan(await readJsonFile(file), 1000, { steps: 20 }),
  pretrained: (folder) => readPretrained(folder),
  'from-pretrained': async (folder) => (await DDPM.fromPretrained(folder, { device: 'cpu' })).dispose(),
  model: async (file) => (await loadModelFile(file, { device: 'cpu' })).dispose(),
  source: async (file) => (await readSource(file)).ddpm.dispose(),
  checkpoint: async (folder) => readTrainingState(await openCheckpoint(folder)),
  // Everything that a resumed training reads; it ends before its first step.
  resume: (folder) =>
    new Trainer({ data: undefined as never, out: folder, resume: true }).run({ signal: AbortSignal.abort() }),
  'class-labels': (file) => classLabels(['a/0.png', 'b/1.png'], file),
  image: (file) => readImage(file, { size: 32 }),
  'image-folder': async (file) => {
    const images = await ImageFolder.open(path.dirname(file), { size: 8 })
    await images.batches(0, 2, 1).next()
  },
  tokenizer: async (folder) => {
    const tokenizer = await Tokenizer.fromPretrained(folder)
    tokenizer.tokenize("It's 2 naïve cats, the THING!", { maxLength: 20 })
  },
  clip: async (folder) => (await FrozenCLIPEmbedder.fromPretrained(folder, { device: 'cpu' })).dispose(),
  autoencoder: async (folder) => {
    using stage = await VQModelInterface.fromPretrained(folder, { device: 'cpu' })
    await stage.stateDict()
  },
  statistics: readStatistics,
  part: readPart,
  features: async (file) => {
    for await (const _ of (await openFeatures(file)).rows());
  },
  evaluation: async (file) => mergeFiles(await openEvaluations([file])),
  npy: (file) => readData(file, 1),
  npz: (file) => readData(file, 1),
  cifar: (file) => readData(file),
  idx: (file) => readData(file, 1),
  tar: (file) => readData(file),
  parquet: (file) => readData(file),
  manifest: (file) => readData(file),
  metrics: async (file) => (await MetricsLog.open(file, 3)).close(),
  lock: async (file) => {
    const lock = await RunLock.acquire(path.dirname(file))
    lock.release()
    const left = readdirSync(path.dirname(file))
    if (left.length > 0) throw new Error(`after the release there are ${left.join(', ')}`)
  },
}
