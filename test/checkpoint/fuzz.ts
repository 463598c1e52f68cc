/**
 * Damaged files for the readers: `node dist/test/checkpoint/fuzz.js [rounds] [seed] [reader]`. Each is read, or refused with a
 * DiffusionError; anything else is printed with what reproduces it, and fails.
 */
import { readFileSync } from 'node:fs'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readSafetensors } from '../../lib/checkpoint/safetensors'
import { TorchTensor, withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { readYaml } from '../../lib/checkpoint/yaml'
import { readCompVisConfig } from '../../lib/diffusion/compvis-config'
import { readPretrained } from '../../lib/diffusion/pretrained'
import { DiffusionError } from '../../lib/errors'
import { Random } from '../support/random'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
const allowance = 64 * 2 ** 20

interface Reader {
  /** Good files, to be damaged. */
  readonly seeds: readonly Uint8Array[]
  /** What is put into them, besides noise. */
  readonly snippets: readonly string[]
  /** @returns bytes of what was read */
  read(bytes: Uint8Array): Promise<number>
  dispose?(): Promise<void>
}

const load = (...names: string[]) => names.map((name) => readFileSync(path.join(fixtures, ...name.split('/'))))
const checkpoint = (name: string) => `checkpoints/${name}`
const jsonSnippets = [
  '"',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '9',
  '-',
  'e9',
  '0',
  'null',
  'true',
  '\\',
  '1e15',
  '[[[[',
  '""',
]

/** As latent-diffusion's. */
const compVisYaml = `model:
  base_learning_rate: 2.0e-06
  target: ldm.models.diffusion.ddpm.DDPM
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    log_every_t: 200
    loss_type: l1
    first_stage_key: image
    image_size: 64
    channels: 3
    monitor: val/loss_simple_ema
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 64
        in_channels: 3
        out_channels: 3
        model_channels: 224
        attention_resolutions: # downsampling rates
        - 8
        - 4
        - 2
        num_res_blocks: 2
        channel_mult: [1, 2, 3, 4]
        num_head_channels: 32
data: { target: main.DataModuleFromConfig, params: { batch_size: 48 } }
`
const aliasYaml = `data: &a { x: [1, 2, "three"], y: &b [*a2, ~, true] }
lightning: [&a2 "t", *b, { <<: *a, k: |
  text
  }]
`

async function readTorch(bytes: Uint8Array): Promise<number> {
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

const pickleSnippets = [
  '(',
  ')',
  't',
  'R',
  '\x81',
  'b',
  'Q',
  '.',
  '}',
  ']',
  'u',
  'e',
  's',
  'a',
  '\x85',
  'h\0',
  'q\0',
  '2',
  '0',
]
const torchSnippets = [
  ...pickleSnippets,
  'PK\x03\x04',
  'PK\x01\x02',
  'PK\x05\x06',
  'cos\nsystem\n',
  '\x8a\xff',
  'X\xff\xff\xff\x7f',
  'K\xff',
]

/** By name. */
export const readers: Record<string, () => Promise<Reader>> = {
  safetensors: async () => ({
    seeds: load('ema.safetensors', 'ema_constant.safetensors'),
    snippets: [...jsonSnippets, 'F64', 'BF16', 'I64'],
    read: async (bytes) => {
      const { tensors } = await readSafetensors(bytes)
      return Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)
    },
  }),
  zip: async () => ({
    seeds: load(
      ...['bare_tensor.pt', 'views_zip.ckpt', 'trainer_like.ckpt', 'bare_state_dict_proto4.ckpt'].map(checkpoint),
    ),
    snippets: torchSnippets,
    read: readTorch,
  }),
  legacy: async () => ({
    seeds: load(...['views_legacy.ckpt', 'ddpm_tiny_legacy.ckpt'].map(checkpoint)),
    snippets: torchSnippets,
    read: readTorch,
  }),
  yaml: async () => ({
    seeds: [Buffer.from(compVisYaml), Buffer.from(aliasYaml)],
    snippets: [
      ...jsonSnippets,
      ': ',
      '- ',
      '\n',
      '&a ',
      '*a',
      '? ',
      '| \n',
      '!!binary ',
      '<<: *a',
      '%YAML 1.1\n---\n',
      '#',
      "'",
    ],
    read: async (bytes) => {
      await readCompVisConfig(await readYaml(bytes))
      return 0
    },
  }),
  unetConfig: () => configReader('unet/config.json'),
  schedulerConfig: () => configReader('scheduler/scheduler_config.json'),
}

/** A diffusers folder in which one file is damaged. */
async function configReader(file: string): Promise<Reader> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-fuzz-'))
  await cp(path.join(fixtures, 'diffusers_ddpm'), folder, { recursive: true })
  return {
    seeds: load(`diffusers_ddpm/${file}`),
    snippets: jsonSnippets,
    read: async (bytes) => {
      await writeFile(path.join(folder, file), bytes)
      await readPretrained(folder)
      return 0
    },
    dispose: () => rm(folder, { recursive: true }),
  }
}

/** One to four changes: a bit, a byte, a number that lies, a piece cut out, doubled or put in, an early end. */
function mutate(original: Uint8Array, snippets: readonly string[], random: Random): Buffer {
  const pick = (n: number) => Math.floor(random.uniform() * n)
  let bytes = Buffer.from(original)
  for (let edits = 1 + pick(4); edits > 0; edits--) {
    // Half of the changes where the structure is: at either end.
    const at = pick(2) ? pick(bytes.length) : pick(2) ? pick(Math.min(400, bytes.length)) : lastOf(bytes, pick)
    switch (pick(7)) {
      case 0:
        bytes[at] ^= 1 << pick(8)
        break
      case 1:
        bytes[at] = pick(256)
        break
      case 2:
        lie(bytes, at, pick)
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + pick(20))])
        break
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at + 1 + pick(40)), bytes.subarray(at)])
        break
      case 5:
        Buffer.from(snippets[pick(snippets.length)], 'latin1').copy(bytes, at)
        break
      default:
        if (pick(10) === 0) bytes = bytes.subarray(0, at)
        else bytes = Buffer.concat([bytes.subarray(0, at), snippet(snippets, pick), bytes.subarray(at)])
    }
    if (bytes.length === 0) return Buffer.alloc(1)
  }
  return bytes
}

const lastOf = (bytes: Uint8Array, pick: (n: number) => number) => bytes.length - 1 - pick(Math.min(400, bytes.length))

function snippet(snippets: readonly string[], pick: (n: number) => number): Buffer {
  return Buffer.from(snippets[pick(snippets.length)].repeat(1 + pick(3) ** 6), 'latin1')
}

/** Overwrites a number of 1, 2, 4 or 8 bytes by one that is near 0 or near the largest of a kind. */
function lie(bytes: Buffer, at: number, pick: (n: number) => number): void {
  const size = 1 << pick(4)
  const [top, small] = [BigInt(8 * [1, 2, 4, 8, 3.875, 7.875][pick(6)]), BigInt(pick(3))]
  const value = pick(2) ? small : BigInt.asUintN(64, (1n << top) - small)
  const number = Buffer.alloc(8)
  number.writeBigUInt64LE(BigInt.asUintN(64, value))
  number.copy(bytes, at, 0, size)
}

export interface Tally {
  read: number
  refused: number
}

/** Throws for the first input that is neither read within its memory nor refused. */
export async function fuzz(name: string, rounds: number, seed: number): Promise<Tally> {
  const reader = await readers[name]()
  const random = new Random(seed)
  const tally = { read: 0, refused: 0 }
  try {
    for (let round = 0; round < rounds; round++) {
      const bytes = mutate(reader.seeds[round % reader.seeds.length], reader.snippets, random)
      try {
        const size = await reader.read(bytes)
        if (size > 2 * bytes.length + allowance) throw new Error(`${size} bytes from ${bytes.length}`)
        tally.read++
      } catch (error) {
        if (!(error instanceof DiffusionError) || error.code === 'internal') {
          throw new Error(`${name}, seed ${seed}, round ${round}: ${bytes.toString('base64')}`, { cause: error })
        }
        tally.refused++
      }
    }
  } finally {
    await reader.dispose?.()
  }
  return tally
}

async function main([rounds = '100000', seed = '1', only]: string[]): Promise<void> {
  for (const name of only ? [only] : Object.keys(readers)) {
    const start = process.hrtime.bigint()
    const { read, refused } = await fuzz(name, Number(rounds), Number(seed))
    const seconds = Number(process.hrtime.bigint() - start) / 1e9
    const memory = Math.round(process.resourceUsage().maxRSS / 1024)
    console.log(`${name}: ${read} read, ${refused} refused, ${seconds.toFixed(0)} s, at most ${memory} MiB resident`)
  }
}

if (require.main === module) void main(process.argv.slice(2))
