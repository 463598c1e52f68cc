/**
 * Readers of files that are not trusted, by name, with good files: what the fuzzers of this folder feed with damaged ones. Those that
 * take a path are the attack's.
 */
import { readFileSync } from 'node:fs'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { readSafetensors, readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { withSource } from '../../lib/checkpoint/source'
import { TorchTensor, withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { readZipDirectory } from '../../lib/checkpoint/torch/zip'
import { readYaml } from '../../lib/checkpoint/yaml'
import { type NpyArray, writeNpz } from '../../lib/data/npz'
import { partArray } from '../../lib/data/parts/part-file'
import { readCompVisConfig } from '../../lib/diffusion/formats/compvis-config'
import { DiffusionError, type DiffusionErrorCode } from '../../lib/errors'
import { openAutoencoderCheckpoint, readAutoencoderTraining } from '../../lib/train/autoencoder/checkpoint'
import { evaluationText } from '../../lib/trainer/evaluation-file'
import { readers as openers } from '../attack/readers'
import { cifar, idx, npy, tar, zipped } from '../data/files'
import { parquet, type TestColumn } from '../data/parquet-file'
import * as seeds from './seeds'

export interface Reader {
  /** Good files, to be damaged. */
  readonly seeds: readonly Uint8Array[]
  /** What is put into them, besides noise. */
  readonly snippets: readonly string[]
  /** Of the errors that a damaged file may end in; none: nothing is refused. */
  readonly codes: readonly DiffusionErrorCode[]
  /** Inputs of a short run. */
  readonly rounds: number
  /** @returns bytes of what was read */
  read(bytes: Uint8Array): Promise<number>
  dispose?(): Promise<void>
}

/** What may be read beyond twice the file's size. */
const allowance = 64 * 2 ** 20

/** 'read', or the code it was refused with. Throws for any other outcome. */
export async function outcome(reader: Reader, bytes: Uint8Array): Promise<'read' | DiffusionErrorCode> {
  try {
    const size = await reader.read(bytes)
    if (size > 2 * bytes.length + allowance) throw new Error(`${size} bytes from ${bytes.length}`)
    return 'read'
  } catch (error) {
    if (error instanceof DiffusionError && reader.codes.includes(error.code)) return error.code
    throw error
  }
}

/** Of a configuration: it is no such file, or asks for what is not there. */
const configCodes: readonly DiffusionErrorCode[] = [
  ...(['bad-file', 'invalid-argument', 'unknown-option', 'unsupported', 'state-mismatch', 'not-found'] as const),
]

export const readers: Record<string, () => Promise<Reader>> = {
  safetensors: async () => ({
    seeds: seeds.load('ema.safetensors', 'ema_constant.safetensors'),
    snippets: [...seeds.jsonSnippets, 'F64', 'BF16', 'I64'],
    codes: ['bad-file'],
    rounds: 1000,
    read: async (bytes) => {
      const { tensors } = await readSafetensors(bytes)
      return Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)
    },
  }),
  safetensorsHeader: async () => ({
    seeds: seeds.load('ema.safetensors', 'schedules_given.safetensors'),
    snippets: [...seeds.jsonSnippets, 'F64', 'BF16', 'I64'],
    codes: ['bad-file'],
    rounds: 1000,
    read: async (bytes) => {
      const { entries, metadata } = await readSafetensorsHeader(bytes)
      return JSON.stringify([entries, metadata]).length
    },
  }),
  zip: async () => torchReader('bare_tensor.pt', 'views_zip.ckpt', 'trainer_like.ckpt', 'bare_state_dict_proto4.ckpt'),
  legacy: async () => torchReader('views_legacy.ckpt', 'ddpm_tiny_legacy.ckpt'),
  zipDirectory: async () => ({
    ...torchReader('bare_tensor.pt', 'views_zip.ckpt'),
    read: (bytes) => withSource(bytes, 'zip archive', async (source) => (await readZipDirectory(source)).size),
  }),
  yaml: async () => ({
    seeds: [Buffer.from(seeds.compVisYaml), Buffer.from(seeds.aliasYaml)],
    snippets: seeds.yamlSnippets,
    codes: configCodes,
    rounds: 1000,
    read: async (bytes) => {
      await readCompVisConfig(await readYaml(bytes))
      return 0
    },
  }),
  json: () =>
    fileReader({
      ...{ file: 'some.json', seeds: seeds.load('diffusers_ddpm/unet/config.json'), codes: ['bad-file'] },
      read: opens('json'),
    }),
  unetConfig: () => diffusersReader('unet/config.json'),
  schedulerConfig: () => diffusersReader('scheduler/scheduler_config.json'),
  autoencoderConfig: async () => {
    const reader = await fileReader({
      ...{ file: 'config.json', codes: configCodes },
      prepare: async (folder) => {
        await cp(seeds.fixture('diffusers_vqvae'), folder, { recursive: true })
        return seeds.load('diffusers_vqvae/config.json')
      },
      read: openers.autoencoder,
    })
    return { ...reader, rounds: 60 } // each reads the weights
  },
  schedulerPlan: () =>
    fileReader({
      ...{ file: 'scheduler_config.json', codes: configCodes },
      seeds: seeds.load('diffusers_ddpm/scheduler/scheduler_config.json'),
      read: opens('scheduler'),
    }),
  stateDict: () =>
    fileReader({
      ...{ file: 'some.ckpt', codes: ['bad-file'], snippets: seeds.torchSnippets },
      seeds: seeds.load('checkpoints/views_zip.ckpt', 'checkpoints/views_legacy.ckpt', 'schedules_given.safetensors'),
      read: opens('state-dict'),
    }),
  metrics: () =>
    fileReader({
      ...{ file: 'metrics.jsonl', codes: [] },
      seeds: [Buffer.from('{"step":1,"loss":0.5}\n{"step":2,"loss":null}\n{"step":7,"loss":0.25}\n')],
      read: opens('metrics'),
    }),
  classLabels: () =>
    fileReader({
      ...{ file: 'classes.json', codes: ['bad-file', 'invalid-argument'] },
      seeds: [Buffer.from('{"a/0.png": "Cats", "b/1.png": "Dogs", "__proto__": "\\u00e9"}')],
      read: opens('class-labels'),
    }),
  vocabulary: () => tokenizerReader('vocab.json'),
  merges: () => tokenizerReader('merges.txt'),
  tokenizerConfig: () => tokenizerReader('tokenizer_config.json'),
  clipConfig: () =>
    fileReader({
      ...{ file: 'config.json', codes: configCodes },
      seeds: [Buffer.from(JSON.stringify(seeds.clipConfig))],
      read: openers.clip,
    }),
  wordPieces: () => tokenizerJsonReader(seeds.wordPieces, { cls_token: '[CLS]', sep_token: '[SEP]' }),
  bytePairs: () => tokenizerJsonReader(seeds.bytePairs, {}),
  npy: () =>
    dataReader('npy', 'some.npy', [
      npy('<f4', [2, 4, 4], new Float32Array(32)),
      npy('|u1', [2, 1, 4, 4], new Uint8Array(32)),
    ]),
  npz: () =>
    dataReader('npz', 'some.npz', [
      zipped({
        'x.npy': npy('|u1', [2, 4, 4], new Uint8Array(32)),
        'y.npy': npy('<i8', [2], BigInt64Array.of(1n, 3n)),
      }),
    ]),
  statistics: () =>
    fileReader({
      ...{
        file: 'some.npz',
        codes: ['bad-file'],
        snippets: ['<f4', '<f8', '|u1', '(2,)', '(2, 2)', 'mu.npy', 'sigma.npy'],
      },
      seeds: [
        zipped({
          'mu.npy': npy('<f8', [2], Float64Array.of(1, 2)),
          'sigma.npy': npy('<f8', [2, 2], new Float64Array(4)),
        }),
        zipped({
          ...{ 'mu.npy': npy('<f4', [1], new Float32Array(1)), 'sigma.npy': npy('<f4', [1, 1], new Float32Array(1)) },
          ...{
            'count.npy': npy('<f8', [1], Float64Array.of(3)),
            'features.npy': npy('<f4', [3, 1], new Float32Array(3)),
          },
        }),
      ],
      read: opens('statistics'),
    }),
  part: () => npzReader('part', { arr_0: seeds.partRows, part: partArray(seeds.partHeader) }),
  features: () => npzReader('features', seeds.features),
  evaluation: () => {
    const one = [1e300, -2.5e-300]
    const sums = { bitsPerDim: one, priorBpd: [0.5], vb: [one, [], [3]], xstartMse: [[1], [2], [3]], mse: [[], [], []] }
    const text = evaluationText(seeds.partHeader, { ...seeds.partHeader, images: 2, sums })
    return fileReader({
      ...{ file: 'part.json', codes: ['bad-file', 'invalid-argument'] },
      seeds: [Buffer.from(text)],
      read: opens('evaluation'),
    })
  },
  cifar: () => dataReader('cifar', 'some.bin', [cifar([[1], [9]])]),
  idx: () => {
    const images = idx([2, 4, 4], new Uint8Array(32))
    return dataReader('idx', 'some-images-idx3-ubyte', [images, gzipSync(images)])
  },
  tar: () => {
    const files = { 'a/b.png': seeds.png, 'a/b.cls': '3', 'a/b.json': '{"label": 2, "caption": "x"}', 'c.txt': 'y' }
    return dataReader('tar', 'some.tar', [
      tar(files),
      tar({ [`${'long/'.repeat(30)}a.png`]: seeds.png, 'b.png': seeds.png }),
    ])
  },
  parquet: () => {
    const columns = (o: Partial<TestColumn>): TestColumn[] => [
      { name: 'image.bytes', values: [seeds.png, seeds.png, null], ...o },
      { name: 'label', values: [0, 1, 1], ...o },
      { name: 'text', values: ['a', 'bc', null], ...o },
    ]
    const features = { label: { _type: 'ClassLabel', names: ['a', 'b'] } }
    const options = [{}, { codec: 'snappy', dictionary: true }, { codec: 'gzip', v2: true }] as const
    return dataReader(
      'parquet',
      'some.parquet',
      options.map((o) => parquet({ columns: columns(o), features, pageRows: 2 })),
    )
  },
  csv: () =>
    dataReader('manifest', 'some.csv', [Buffer.from('file_name,label,text\na.png,cat,"a ""b"", c"\r\na.png,dog,c\n')]),
  jsonl: () =>
    dataReader('manifest', 'some.jsonl', [
      Buffer.from(
        `{"file_name": "a.png", "label": 3, "text": "${'caption '.repeat(60)}"}\n{"file": "a.png", "label": "x"}\n`,
      ),
    ]),
  modelFile: () =>
    fileReader({
      ...{ file: 'model.safetensors', codes: configCodes },
      prepare: async (folder) => [readFileSync((await seeds.writeModelAndRun(folder)).model)],
      read: opens('source'),
    }),
  autoencoderState: () =>
    fileReader({
      ...{ file: 'run/checkpoints/step-00000001/state.json', codes: configCodes },
      prepare: async (folder) => [readFileSync(path.join(await seeds.writeAutoencoderRun(folder), 'state.json'))],
      read: async (folder) => {
        const training = await readAutoencoderTraining(await openAutoencoderCheckpoint(path.join(folder, 'run')))
        return Object.keys(training.autoencoder.weights).length
      },
    }),
  runState: () =>
    fileReader({
      ...{ file: 'run/checkpoints/step-00000002/state.json', codes: configCodes },
      prepare: async (folder) => [
        readFileSync(path.join((await seeds.writeModelAndRun(folder)).checkpoint, 'state.json')),
      ],
      read: (folder) => openers.source(path.join(folder, 'run')),
    }),
}

function torchReader(...names: string[]): Reader {
  return {
    seeds: seeds.load(...names.map((name) => `checkpoints/${name}`)),
    snippets: seeds.torchSnippets,
    codes: ['bad-file'],
    rounds: 1000,
    read: readTorch,
  }
}

function readTorch(bytes: Uint8Array): Promise<number> {
  return withTorchFile(bytes, async ({ value, load }) => {
    const seen = new Set<unknown>([value])
    let size = 0
    for (const item of seen) {
      if (item instanceof TorchTensor) {
        const { data } = await load(item)
        if (data.byteLength > 2 * bytes.length + allowance) throw new Error(`a tensor of ${data.byteLength} bytes`)
        size = Math.max(size, data.byteLength)
      } else if (item instanceof Map) for (const pair of item) for (const part of pair) seen.add(part)
      else if (Array.isArray(item) || item instanceof Set) for (const part of item) seen.add(part)
    }
    return size
  })
}

/** A diffusers folder in which one file is damaged. */
function diffusersReader(file: string): Promise<Reader> {
  return fileReader({
    ...{ file, codes: configCodes, seeds: seeds.load(`diffusers_ddpm/${file}`) },
    prepare: async (folder) => {
      await cp(seeds.fixture('diffusers_ddpm'), folder, { recursive: true })
      return seeds.load(`diffusers_ddpm/${file}`)
    },
    read: openers.pretrained,
  })
}

const tokenizerCodes = ['bad-file', 'not-found'] as const

/** CLIP's tokenizer of which one file is damaged. */
async function tokenizerReader(file: string): Promise<Reader> {
  const reader = await fileReader({
    ...{ file, codes: tokenizerCodes },
    prepare: async (folder) => {
      await cp(seeds.fixture('clip_tokenizer'), folder, { recursive: true })
      return seeds.load(`clip_tokenizer/${file}`)
    },
    read: openers.tokenizer,
  })
  return { ...reader, rounds: 60 }
}

async function tokenizerJsonReader(good: object, config: object): Promise<Reader> {
  const reader = await fileReader({
    ...{ file: 'tokenizer.json', codes: tokenizerCodes },
    prepare: async (folder) => {
      await writeFile(path.join(folder, 'tokenizer_config.json'), JSON.stringify(config))
      return [Buffer.from(JSON.stringify(good))]
    },
    read: openers.tokenizer,
  })
  return { ...reader, rounds: 80 }
}

/** A file of training images, with an image beside it. */
async function dataReader(opener: string, file: string, good: readonly Uint8Array[]): Promise<Reader> {
  const reader = await fileReader({
    ...{ file, codes: ['bad-file', 'invalid-argument', 'not-found'], snippets: seeds.dataSnippets },
    prepare: async (folder) => {
      await writeFile(path.join(folder, 'a.png'), seeds.png)
      return good
    },
    read: opens(opener),
  })
  return { ...reader, rounds: 80 }
}

/** An .npz file that this package writes. */
async function npzReader(opener: string, arrays: Readonly<Record<string, NpyArray>>): Promise<Reader> {
  const reader = await fileReader({
    ...{ file: 'some.npz', codes: ['bad-file'], snippets: ['<f4', '|u1', '(2,)', '(2, 2)', 'part.npy', 'about.npy'] },
    prepare: async (folder) => {
      const file = path.join(folder, 'good.npz')
      await writeNpz(file, arrays)
      return [readFileSync(file)]
    },
    read: opens(opener),
  })
  return { ...reader, rounds: 80 }
}

interface FileReader {
  /** The damaged one, in a folder of its own. */
  readonly file: string
  readonly codes: readonly DiffusionErrorCode[]
  readonly seeds?: readonly Uint8Array[]
  /** Default: of JSON. */
  readonly snippets?: readonly string[]
  /** Fills the folder with what belongs beside the file; its result are the seeds. */
  prepare?(folder: string): Promise<readonly Uint8Array[]>
  read(folder: string, file: string): Promise<unknown>
}

/** Opens the damaged file as the attack's reader of this name does. */
const opens = (opener: string) => (_: string, file: string) => openers[opener](file)

/** A reader that takes paths. */
async function fileReader({ file, codes, seeds: given = [], snippets, prepare, read }: FileReader): Promise<Reader> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-fuzz-'))
  const damaged = path.join(folder, file)
  return {
    ...{ seeds: (await prepare?.(folder)) ?? given, snippets: snippets ?? seeds.jsonSnippets, codes, rounds: 150 },
    read: async (bytes) => {
      await writeFile(damaged, bytes)
      await read(folder, damaged)
      return 0
    },
    dispose: () => rm(folder, { recursive: true }),
  }
}
