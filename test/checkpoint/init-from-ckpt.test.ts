// ddpm.initFromCkpt: ddpm.py's init_from_ckpt on checkpoints that ddpm.py's DDPM wrote.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { DDPM, type DDPMOptions } from '../../lib/index'
import type { UNet } from '../../lib/nn/unet/unet'
import { camelCase } from '../diffusion/fixture'
import { assertClose } from '../support/compare'
import { runGraph } from '../support/run-graph'

const folder = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'checkpoints')
const checkpoint = path.join(folder, 'ddpm_unet.ckpt')
const golden = readSafetensors(path.join(folder, 'ddpm_unet.expected.safetensors'))
const prefix = 'model.diffusion_model.'

async function modelOf(options: DDPMOptions = {}): Promise<DDPM> {
  const config = JSON.parse((await golden).metadata.config)
  return new DDPM({ unetConfig: camelCase(config.unet), ...camelCase(config.ddpm), device: 'cpu', ...options })
}

/** The network's output for the golden input. */
async function outputOf(ddpm: DDPM, averaged: boolean): Promise<Float32Array> {
  const { tensors } = await golden
  const unet = ddpm.network as UNet
  const dict = await ddpm.stateDict()
  const weights = unet.parameters.slots.map(({ name }) => {
    return [name, dict[averaged ? `model_ema.diffusion_model${name.replaceAll('.', '')}` : prefix + name]] as const
  })
  const { flat } = await unet.parameters.fromStateDict(Object.fromEntries(weights))
  const { data, shape } = tensors['in/x']
  const [n, channels, height, width] = shape
  const feeds = {
    x: { dims: [n, 1, 1, channels * height * width], data: data as Float32Array },
    t: { dims: [n, 1, 1, 1], data: Int32Array.from(tensors['in/t'].data as BigInt64Array, Number) },
  } as const
  const { out } = await runGraph(
    'cpu',
    feeds,
    (graph, { x, t }) => ({
      out: graph.toNchw(unet.build({ graph, train: false }, graph.toNhwc(x, { channels, height, width }), t)),
    }),
    { banks: { weights: flat } },
  )
  return out as Float32Array
}

async function assertOutput(ddpm: DDPM, averaged: boolean, expected: string): Promise<void> {
  const { data } = (await golden).tensors[expected]
  assertClose(await outputOf(ddpm, averaged), data as Float32Array, { abs: 1e-4, rel: 1e-4 }, expected)
}

describe('initFromCkpt', () => {
  it('a checkpoint of ddpm.py: weights, averages and schedule', async () => {
    using ddpm = await modelOf({ linearEnd: 0.01 })
    const { missing, unexpected, counters } = await ddpm.initFromCkpt(checkpoint)
    assert.deepEqual([missing, unexpected], [[], []])
    assert.deepEqual(counters, { global_step: 123, epoch: 4 })
    await assertOutput(ddpm, false, 'out/model')
    await assertOutput(ddpm, true, 'out/model_ema')
    const { tensors } = await readStateDictFile(checkpoint)
    const dict = await ddpm.stateDict()
    assert.deepEqual(Object.keys(dict).sort(), Object.keys(tensors).sort())
    for (const [name, { data }] of Object.entries(tensors)) {
      assert.deepEqual(Array.from(await dict[name].data()), Array.from(data, Number), name)
    }
  })

  it('the averages in place of the weights', async () => {
    using ddpm = await modelOf({ useEma: false })
    const { unexpected } = await ddpm.initFromCkpt(checkpoint, { weights: 'ema' })
    assert.ok(unexpected.length > 0 && unexpected.every((name) => name.startsWith('model_ema.')))
    await assertOutput(ddpm, false, 'out/model_ema')
    await assert.rejects(ddpm.initFromCkpt(checkpoint, { weights: 'ema', ignoreKeys: ['model_ema'] }), {
      code: 'bad-file',
      message: /no averaged weights/,
    })
  })

  it('ignoreKeys are prefixes; what they leave out is missing', async () => {
    using ddpm = await modelOf()
    const before = await ddpm.stateDict()
    const { missing, unexpected } = await ddpm.initFromCkpt(checkpoint, { ignoreKeys: [`${prefix}out.`, 'model_ema.'] })
    assert.deepEqual(unexpected, [])
    const ema = Object.keys(before).filter((name) => name.startsWith('model_ema.'))
    const out = ['0.weight', '0.bias', '2.weight', '2.bias'].map((name) => `${prefix}out.${name}`)
    assert.deepEqual(missing.sort(), [...out, ...ema].sort())
    const after = await ddpm.stateDict()
    assert.deepEqual(await after[out[0]].data(), await before[out[0]].data())
  })

  it('onlyModel leaves the schedule and starts the averages anew', async () => {
    using ddpm = await modelOf({ linearEnd: 0.01 })
    const betas = ddpm.betas.slice()
    const { missing, unexpected } = await ddpm.initFromCkpt(checkpoint, { onlyModel: true })
    assert.deepEqual([missing, unexpected], [[], []])
    assert.deepEqual(ddpm.betas, betas)
    await assertOutput(ddpm, false, 'out/model')
    await assertOutput(ddpm, true, 'out/model')
  })

  it('safetensors, by all names or by the network’s own', async () => {
    const temporary = await mkdtemp(path.join(os.tmpdir(), 'ddpm-init-'))
    try {
      const { tensors } = await readStateDictFile(checkpoint)
      const file = path.join(temporary, 'model.safetensors')
      await writeSafetensors(file, tensors)
      using whole = await modelOf()
      assert.deepEqual(await whole.initFromCkpt(file), { missing: [], unexpected: [], counters: {} })
      await assertOutput(whole, true, 'out/model_ema')
      const bare = Object.entries(tensors).filter(([name]) => name.startsWith(prefix))
      await writeSafetensors(file, Object.fromEntries(bare.map(([name, t]) => [name.slice(prefix.length), t])))
      using network = await modelOf()
      await network.initFromCkpt(file)
      await assertOutput(network, false, 'out/model')
    } finally {
      await rm(temporary, { recursive: true })
    }
  })

  it('what does not fit is refused before anything is changed', async () => {
    using ddpm = await modelOf()
    const before = await outputOf(ddpm, false)
    // A checkpoint of another model has a schedule of 20 timesteps.
    const other = path.join(folder, 'ddpm_tiny_legacy.ckpt')
    await assert.rejects(ddpm.initFromCkpt(other), { code: 'state-mismatch', message: /betas/ })
    await assert.rejects(ddpm.initFromCkpt(other, { onlyModel: true }), { code: 'state-mismatch', message: /nothing/ })
    await assert.rejects(ddpm.initFromCkpt(path.join(folder, 'malicious_system.ckpt')), { code: 'bad-file' })
    await assert.rejects(ddpm.initFromCkpt(path.join(folder, 'none.ckpt')), { code: 'not-found' })
    await assert.rejects(ddpm.initFromCkpt(checkpoint, { ignoreKeys: 'out' as never }), { code: 'invalid-argument' })
    await assert.rejects(ddpm.initFromCkpt(checkpoint, { ignore: [] } as never), { code: 'unknown-option' })
    assert.deepEqual(await outputOf(ddpm, false), before)
  })
})
