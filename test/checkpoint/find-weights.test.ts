// Where people's checkpoints have their weights, and files that are not what they are called.
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { describeKind } from '../../lib/checkpoint/file-kind'
import { readJsonFile } from '../../lib/checkpoint/json'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { readShapes, readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { DDPM, type DDPMOptions } from '../../lib/index'
import { type Content, torchFile } from '../support/torch-file'

const unetConfig = {
  ...{ imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 32, numResBlocks: 1 },
  ...{ channelMult: [1], attentionResolutions: [], middleAttention: false },
}
const make = (o: DDPMOptions = {}) => new DDPM({ unetConfig, timesteps: 20, device: 'cpu', useEma: false, ...o })
const own = 'model.diffusion_model.'

/** The network's weights by its names. */
async function weightsOf(ddpm: DDPM): Promise<Record<string, { shape: readonly number[]; data: Float32Array }>> {
  const result: Record<string, { shape: readonly number[]; data: Float32Array }> = {}
  for (const [name, tensor] of Object.entries((await ddpm.trainingState()).weights))
    result[name] = { shape: tensor.shape, data: await tensor.data() }
  return result
}

describe('weights in files of trainings', () => {
  let folder: string
  let trained: Awaited<ReturnType<typeof weightsOf>>
  let averaged: Awaited<ReturnType<typeof weightsOf>>
  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-find-'))
    for (const seed of [5, 6]) {
      using ddpm = make({ seed })
      if (seed === 5) trained = await weightsOf(ddpm)
      else averaged = await weightsOf(ddpm)
    }
  })
  after(() => rm(folder, { recursive: true }))

  const dict = (content: Record<string, Content>): Content => ({ dict: content })
  const named = (weights: typeof trained, prefix = ''): Record<string, Content> =>
    Object.fromEntries(Object.entries(weights).map(([name, tensor]) => [prefix + name, tensor]))
  const file = async (content: Content) => {
    const name = path.join(folder, 'a.pt')
    await writeFile(name, torchFile(content))
    return name
  }
  const load = async (content: Content, options = {}) => {
    using ddpm = make({ seed: 9 })
    const report = await ddpm.initFromCkpt(await file(content), options)
    return { weights: await weightsOf(ddpm), report, warnings: ddpm.warnings() }
  }
  const extra = { dict: { lr: 1, step: { shape: [1], data: Float32Array.of(3) } } }
  const scalar = { shape: [], data: Float32Array.of(1) }

  for (const prefix of [
    'module.',
    '_orig_mod.',
    'module._orig_mod.',
    'ema_model.',
    'online_model.',
    'net.unet.',
    'model.',
  ]) {
    it(`'${prefix}' before the names`, async () => {
      const { weights, report, warnings } = await load(dict(named(trained, prefix)))
      assert.deepEqual(weights, trained)
      assert.deepEqual(report.found, { key: '', prefix })
      assert.match(
        warnings.join(),
        new RegExp(`a\\.pt: its weights were taken, without '${prefix}' before their names$`),
      )
    })
  }

  it("before ddpm.py's names: all that is ddpm.py's is taken", async () => {
    using source = make({ seed: 5, linearEnd: 0.01 })
    const all: Record<string, Content> = {}
    for (const [name, tensor] of Object.entries(await source.stateDict()))
      all[`module.${name}`] = { shape: tensor.shape, data: Float32Array.from(await tensor.data()) }
    using ddpm = make({ seed: 9 })
    const { missing, unexpected } = await ddpm.initFromCkpt(await file(dict({ ...all, 'loss.weight': scalar })))
    assert.deepEqual([missing, unexpected], [[], ['loss.weight']])
    assert.deepEqual(ddpm.betas, source.betas)
    const { missing: left } = await ddpm.initFromCkpt(await file(dict(all)), { ignoreKeys: [`${own}out.`] })
    assert.equal(left.length, 4)
  })

  for (const key of ['model', 'model_state_dict', 'state_dict', 'ema', 'net', 'unet', 'anything', 'generator']) {
    it(`under '${key}', beside an optimizer and counters`, async () => {
      const { weights, report } = await load(dict({ step: 7, [key]: dict(named(trained)), opt: extra }))
      assert.deepEqual(weights, trained)
      assert.deepEqual(report.counters, { step: 7 })
      assert.deepEqual(report.found, key === 'state_dict' ? undefined : { key, prefix: '' })
    })
  }

  it('averages beside the weights, by weights and by key', async () => {
    // As ema-pytorch's and others' trainers write it: numbers among the weights, the trained ones once more in the average.
    const ema = dict({
      ...named(trained, 'online_model.model.'),
      ...named(averaged, 'ema_model.model.'),
      initted: scalar,
      step: 5,
    })
    const content = dict({ step: 7, model: dict(named(trained, 'model.')), opt: extra, ema })
    const { weights, report } = await load(content)
    assert.deepEqual([weights, report.found], [trained, { key: 'model', prefix: 'model.' }])
    const average = await load(content, { weights: 'ema' })
    assert.deepEqual([average.weights, average.report.found], [averaged, { key: 'ema', prefix: 'ema_model.model.' }])
    assert.deepEqual((await load(content, { key: 'ema' })).weights, trained)
    assert.deepEqual((await load(content, { key: 'ema', weights: 'ema' })).weights, averaged)
    const nested = dict({ ema: dict({ shadow: dict(named(averaged)) }), model: dict(named(trained)) })
    assert.deepEqual((await load(nested, { weights: 'ema' })).weights, averaged)
    assert.deepEqual((await load(nested, { key: 'ema.shadow' })).weights, averaged)
    assert.deepEqual((await load(nested)).weights, trained)
    await assert.rejects(load(content, { key: 'emma' }), {
      code: 'invalid-argument',
      argument: 'key',
      message: /'model'/,
    })
  })

  it('of another network are refused, with names of both', async () => {
    const other = dict({ model: dict({ 'conv1.weight': { shape: [1], data: Float32Array.of(1) } }) })
    await assert.rejects(load(other), {
      code: 'state-mismatch',
      message: /'conv1.weight', the network's like 'time_embed/,
    })
    const lucidrains = dict({ model: dict({ 'model.init_conv.weight': { shape: [1], data: Float32Array.of(1) } }) })
    await assert.rejects(load(lucidrains), { code: 'unsupported', message: /denoising-diffusion-pytorch's Unet/ })
    await assert.rejects(load(dict({ step: 3, opt: dict({ lr: 1 }) })), {
      code: 'bad-file',
      message: /no tensors by their names, only 'step' \(3\), 'opt' \(a dict\)/,
    })
    const shadow = { list: [scalar, scalar] }
    await assert.rejects(load(dict({ decay: 1, shadow_params: shadow })), {
      code: 'bad-file',
      message: /'shadow_params' \(a list of 2 tensors, without names\)/,
    })
    await assert.rejects(load(dict({ model: { opcodes: 'c__main__\nNet\n)\x81' } })), {
      code: 'bad-file',
      message: /'model' \(an object \(__main__.Net\)\)/,
    })
  })

  it('in a list, as [weights, optimizer, epoch, step, averages], by their places', async () => {
    const list = { list: [dict(named(trained, 'module.')), extra, 3, 400, dict(named(averaged, 'module.'))] }
    const first = await load(list)
    assert.deepEqual(first.weights, trained)
    assert.deepEqual(first.report.found, { key: '0', prefix: 'module.' })
    assert.deepEqual((await load(list, { key: '4' })).weights, averaged)
    const inside = dict({ states: { list: [extra, dict({ ema: dict(named(trained)) })] } })
    assert.deepEqual((await load(inside)).report.found, { key: 'states.1.ema', prefix: '' })
  })

  it('shapes of a UNet are found without the network', async () => {
    const path = await file(
      dict({
        step: 7,
        optimizer: dict(named({ ...trained, more: trained['out.0.bias'] }, 'x')),
        model: dict(named(trained)),
      }),
    )
    assert.deepEqual(Object.keys(await readShapes(path)), Object.keys(trained))
  })

  it('safetensors, and a .pt that is called so', async () => {
    const name = path.join(folder, 'b.safetensors')
    const tensors = Object.entries(trained).map(([key, tensor]) => [
      `module.${key}`,
      { dtype: 'F32' as const, ...tensor },
    ])
    await writeSafetensors(name, Object.fromEntries(tensors))
    using ddpm = make({ seed: 9 })
    await ddpm.initFromCkpt(name)
    assert.deepEqual(await weightsOf(ddpm), trained)
    await writeFile(name, torchFile(dict(named(averaged))))
    await ddpm.initFromCkpt(name)
    assert.deepEqual(await weightsOf(ddpm), averaged)
  })
})

describe('files that are not what they are called', () => {
  const kinds: Record<string, [string | Uint8Array, RegExp]> = {
    'a pointer of LFS': [
      'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n',
      /Git LFS.*git lfs pull/,
    ],
    'a pointer of git-annex': ['/annex/objects/SHA256E-s12--ab.safetensors\n', /git-annex/],
    'a web page': ['\n <!DOCTYPE html><html><body>404</body></html>', /HTML/],
    JSON: ['{"error": "Repository not found"}', /JSON/],
    text: ['Entry not found, please log in', /text/],
    PNG: [Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex'), /PNG/],
    JPEG: [Buffer.from('ffd8ffe000104a46494600010101', 'hex'), /JPEG/],
    WebP: ['RIFF\x10\0\0\0WEBPVP8 ', /WebP/],
    ONNX: [Buffer.from('08081207707974 6f726368'.replace(' ', ''), 'hex'), /ONNX/],
    GGUF: ['GGUF\x03\0\0\0\0\0\0\0', /GGUF/],
    HDF5: [Buffer.from('894844460d0a1a0a00', 'hex'), /HDF5/],
    NumPy: [Buffer.from('934e554d5059010076007b', 'hex'), /NumPy/],
    gzip: [Buffer.from('1f8b08000000000000030000', 'hex'), /gzip/],
    tar: [Buffer.concat([Buffer.alloc(257, 'a'), Buffer.from('ustar\0'), Buffer.alloc(200)]), /tar archive/],
    'a zip archive': ['PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0', /zip/],
  }

  it('are named for what they are, by the readers of both kinds', async () => {
    for (const [name, [content, expected]] of Object.entries(kinds)) {
      const bytes = typeof content === 'string' ? Buffer.from(content, 'latin1') : content
      await assert.rejects(readSafetensors(bytes), { code: 'bad-file', message: expected }, name)
    }
    const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-kinds-'))
    try {
      for (const [name, [content, expected]] of Object.entries(kinds)) {
        const file = path.join(folder, 'model.ckpt')
        await writeFile(file, content)
        await assert.rejects(readStateDictFile(file), { code: 'bad-file', message: expected }, name)
      }
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it('configurations, too', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-kinds-'))
    try {
      const file = path.join(folder, 'config.json')
      for (const name of ['a pointer of LFS', 'a web page', 'PNG', 'a zip archive']) {
        const [content, message] = kinds[name]
        await writeFile(file, content, 'latin1')
        await assert.rejects(readJsonFile(file), { code: 'bad-file', message }, name)
      }
      for (const [text, message] of [
        ['[1]', /not a JSON object/],
        ['hello, this is it', /not JSON/],
        ['{"a"', /not JSON/],
      ] as const) {
        await writeFile(file, text)
        await assert.rejects(readJsonFile(file), { code: 'bad-file', message }, text)
      }
      await writeFile(file, ' \n{"a": 1}')
      assert.deepEqual(await readJsonFile(file), { a: 1 })
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it('what is one is not taken for another', async () => {
    const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
    const head = async (name: string) => (await readFile(path.join(fixtures, name))).subarray(0, 512)
    assert.equal(describeKind(await head('ema.safetensors')), 'a safetensors file')
    assert.match(describeKind(await head('checkpoints/ddpm_unet.ckpt')) ?? '', /PyTorch/)
    assert.match(describeKind(await head('checkpoints/views_legacy.ckpt')) ?? '', /PyTorch/)
    assert.equal(describeKind(new Uint8Array(512)), undefined)
    assert.equal(describeKind(new Uint8Array()), 'empty')
    // Cut off, and nothing else than it says.
    const cut = (await readFile(path.join(fixtures, 'ema.safetensors'))).subarray(0, 100)
    await assert.rejects(readSafetensors(cut), { message: /more than the file holds/ })
  })
})
