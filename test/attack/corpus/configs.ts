/** Hostile configurations: JSON, YAML, diffusers' and latent-diffusion's. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { type Corpus, file, type Input, light, type Seed, seed, withHostileValues } from '../support/input'

const diffusers = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'diffusers_ddpm')
const json = (name: string, text: () => string) => file(`json: ${name}`, ['json', 'scheduler'], 'x.json', text)
const yaml = (name: string, text: () => string) => file(`yaml: ${name}`, ['yaml', 'compvis-config'], 'x.yaml', text)

/** As latent-diffusion's, of a small model. */
export const compVis = `model:
  base_learning_rate: 2.0e-06
  target: ldm.models.diffusion.ddpm.DDPM
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 50
    loss_type: l1
    image_size: 8
    channels: 3
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 8
        in_channels: 3
        out_channels: 3
        model_channels: 32
        attention_resolutions: [2]
        num_res_blocks: 1
        channel_mult: [1, 2]
        num_head_channels: 32
data: { target: main.DataModuleFromConfig, params: { batch_size: 48 } }
`

const jsonTexts: Record<string, () => string> = {
  'arrays, a million deep': () => `{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}`,
  'objects, a million deep': () => `${'{"a":'.repeat(1e6)}1${'}'.repeat(1e6)}`,
  'arrays, 20000 deep': () => `{"a":${'['.repeat(2e4)}${']'.repeat(2e4)}}`,
  '15 MB of brackets': () => `{"a":[${'[],'.repeat(5e6)}[]]}`,
  '15 MB of objects': () => `{"a":[${'{},'.repeat(5e6)}{}]}`,
  '15 MB of keys': () => `{${Array.from({ length: 1.2e6 }, (_, i) => `"${i}":1`).join()}}`,
  '15 MB of numbers': () => `{"a":[${'1,'.repeat(7e6)}1]}`,
  '15 MB of text': () => `{"a":"${'x'.repeat(1.5e7)}"}`,
  '15 MB of escapes': () => `{"a":"${'\\u1234'.repeat(2.5e6)}"}`,
  '20 MB': () => `{"a":"${'x'.repeat(2e7)}"}`,
  'a number of a million digits': () => `{"a":${'9'.repeat(1e6)}}`,
  'a fraction of a million digits': () => `{"a":0.${'9'.repeat(1e6)}}`,
  'a long key twice': () => `{"${'x'.repeat(5e6)}":1,"${'x'.repeat(5e6)}":2}`,
  'a key twice, one escaped': () => '{"ab":1,"\\u0061b":2}',
  'names with a meaning': () => '{"__proto__":{"x":1},"constructor":{},"toString":1,"_class_name":"toString"}',
  'no object': () => '[1]',
  nothing: () => '',
  'no UTF-8': () => '{"a":"\ufffd\ud800"}',
}

const yamlTexts: Record<string, () => string> = {
  'aliases that unfold': () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    for (let i = 1; i < 12; i++)
      lines.push(
        `a${i}: &a${i} [${Array(9)
          .fill(`*a${i - 1}`)
          .join(', ')}]`,
      )
    return lines.join('\n')
  },
  'merges that unfold': () => {
    const lines = ['a0: &a0 { x: 1 }']
    for (let i = 1; i < 200; i++) lines.push(`a${i}: &a${i} { <<: [*a${i - 1}, *a${i - 1}], k${i}: *a${i - 1} }`)
    return lines.join('\n')
  },
  'an alias of itself': () => 'a: &a [*a]',
  'a merge of itself': () => 'a: &a { <<: *a }',
  'flow, 15000 deep': () => `a: ${'['.repeat(15000)}${']'.repeat(15000)}`,
  'flow maps, 8000 deep': () => `a: ${'{a: '.repeat(7000)}1${'}'.repeat(1000)}`,
  'a line of dashes': () => '- '.repeat(16000),
  'a line of question marks': () => '? '.repeat(16000),
  'indented, 240 deep': () => Array.from({ length: 240 }, (_, i) => `${' '.repeat(i)}a:`).join('\n'),
  'a thousand documents': () => '--- a\n'.repeat(5000),
  comments: () => `a: 1\n${'#\n'.repeat(16000)}`,
  anchors: () => `a: [${Array.from({ length: 4000 }, (_, i) => `&a${i} 1`).join(', ')}]`,
  keys: () => Array.from({ length: 5000 }, (_, i) => `${i}:`).join('\n'),
  'keys that are maps': () => `? {a: 1}\n: 1\n`.repeat(2000),
  'a key twice': () => 'a: 1\na: 2',
  'quotes without end': () => `a: "${'x'.repeat(30000)}`,
  escapes: () => `a: "${'\\U0010FFFF'.repeat(3000)}"`,
  'a block of spaces': () => `a: |\n${' \n'.repeat(16000)}`,
  'folded lines': () => `a: >\n${' x\n\n'.repeat(8000)}`,
  tags: () => `a: ${'!!str '.repeat(1)}x\nb: !!binary ${'A'.repeat(30000)}\nc: !!set {x}\nd: !!timestamp 2000-01-01`,
  'a tag of a long name': () => `a: !<${'x'.repeat(30000)}> 1`,
  'a directive of a long name': () => `%TAG ! ${'x'.repeat(30000)}\n--- a: 1`,
  'a number of 30000 digits': () => `a: ${'9'.repeat(30000)}`,
  'numbers of other forms': () => 'a: 0x7fffffffffffffffffff\nb: 0o777777777777777777777\nc: .inf\nd: .nan\ne: 1e999',
  'names with a meaning': () => '__proto__: {x: 1}\nconstructor: 1\nmodel: {target: toString, params: {__proto__: 1}}',
  '1 MB': () => `a: ${'x'.repeat(1e6)}`,
}

/** A diffusers folder in which one file is other than it should be. */
function inFolder(target: string, write: (file: string) => void): (folder: string) => string {
  return (folder) => {
    cpSync(diffusers, folder, { recursive: true })
    rmSync(path.join(folder, target), { force: true })
    write(path.join(folder, target))
    return folder
  }
}

const partOf = (name: string) => JSON.parse(readFileSync(path.join(diffusers, name), 'utf8'))
const parts = ['model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json']

function folders(): Input[] {
  const inputs: Input[] = []
  const readers = ['pretrained', 'from-pretrained']
  for (const part of parts) {
    for (const { name, value } of withHostileValues(partOf(part))) {
      const text = JSON.stringify(value)
      const write = inFolder(part, (f) => writeFileSync(f, text))
      inputs.push({ name: `diffusers: ${part}: ${name}`, readers, light: true, write })
    }
    for (const [name, text] of Object.entries(jsonTexts)) {
      inputs.push({
        name: `diffusers: ${part}: ${name}`,
        readers: ['pretrained'],
        write: inFolder(part, (f) => writeFileSync(f, text())),
      })
    }
  }
  return [...inputs, ...indexes()]
}

/** Weights in several files, by an index that lies. */
function indexes(): Input[] {
  const index = 'unet/diffusion_pytorch_model.safetensors.index.json'
  const whole = 'unet/diffusion_pytorch_model.safetensors'
  const maps: Record<string, unknown> = {
    'no map': {},
    'a map of numbers': { weight_map: { a: 1 } },
    'a map that is an array': { weight_map: ['x.safetensors'] },
    'a file outside': { weight_map: { a: '../scheduler/scheduler_config.json' } },
    'the index itself': { weight_map: { a: path.basename(index) } },
    'a file that is not there': { weight_map: { a: 'none.safetensors' } },
    'a hundred thousand files': {
      weight_map: Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`a${i}`, `${i}.safetensors`])),
    },
    'the folder': { weight_map: { a: '.' } },
  }
  return Object.entries(maps).map(([name, value]) => ({
    name: `diffusers: index: ${name}`,
    readers: ['pretrained'],
    write: (folder) => {
      inFolder(index, (f) => writeFileSync(f, JSON.stringify(value)))(folder)
      rmSync(path.join(folder, whole))
      return folder
    },
  }))
}

function folderSeed(part: string): Seed {
  return {
    name: `diffusers: ${part}`,
    readers: ['pretrained'],
    bytes: readFileSync(path.join(diffusers, part)),
    write: (folder, bytes) => inFolder(part, (f) => writeFileSync(f, bytes))(folder),
  }
}

const scheduler = partOf(parts[2])

export const corpus: Corpus = {
  bombs: [
    ...Object.entries(jsonTexts).map(([name, text]) => json(name, text)),
    ...Object.entries(yamlTexts).map(([name, text]) => yaml(name, text)),
    ...[...withHostileValues(scheduler)].map(({ name, value }) =>
      light(file(`scheduler: ${name}`, ['scheduler'], 'x.json', () => JSON.stringify(value))),
    ),
    // JSON is YAML.
    ...[...withHostileValues(parse(compVis))].map(({ name, value }) =>
      light(file(`compvis: ${name}`, ['compvis-config', 'from-config'], 'x.yaml', () => JSON.stringify(value))),
    ),
    ...folders(),
  ],
  seeds: [
    seed('scheduler config', ['json', 'scheduler'], 'x.json', Buffer.from(JSON.stringify(scheduler, null, 1))),
    seed('compvis config', ['yaml', 'compvis-config'], 'x.yaml', Buffer.from(compVis)),
    ...[...parts, 'unet/diffusion_pytorch_model.safetensors'].map(folderSeed),
  ],
  snippets: [
    ...['"', '{', '}', '[', ']', ',', ':', '9', '-', 'e9', '0', 'null', 'true', '\\', '1e15', '[[[[', '""'],
    ...[': ', '- ', '\n', '&a ', '*a', '? ', '| \n', '!!binary ', '<<: *a', '%YAML 1.1\n---\n', '#', "'"],
  ],
}
