/** Models with low-rank updates: trained, written, read, merged. */
import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readSafetensors, type StoredTensor, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { DDPMOptions } from '../../lib/diffusion/options/ddpm-options'
import { UNet } from '../../lib/nn/unet/unet'
import type { StateDict } from '../../lib/nn/weights'
import { Tensor } from '../../lib/tensor'
import { assertCloseToScale } from '../support/compare'
import { testedBackends } from '../support/devices'
import { Random } from '../support/random'
import { smallUNet } from '../support/small-unet'

const unetConfig = { ...smallUNet, modelChannels: 16, normGroups: 8 }
const base: DDPMOptions = { unetConfig, imageSize: 8, channels: 3, timesteps: 50, seed: 4 }
const images = Tensor.from(new Random(1).normals(2 * 3 * 64), [2, 3, 8, 8])
const drawn = { batchSize: 2, steps: 2, seed: 3, sampler: 'ddim' } as const

/** A base whose output is not zero, as that of a new network is. */
async function weights(): Promise<StateDict> {
  const rng = new Random(8)
  return Object.fromEntries(
    new UNet(unetConfig).parameters.slots.map(({ name, shape }) => {
      const size = shape.reduce((a, b) => a * b, 1)
      return [name, Tensor.from(rng.normals(size, shape.length > 1 ? 0.4 / Math.sqrt(size / shape[0]) : 0.05), shape)]
    }),
  )
}

async function trained(device: 'cpu' | 'cuda-host', lora: DDPMOptions['lora'], steps = 3): Promise<DDPM> {
  const ddpm = new DDPM({ ...base, lora, device: device as 'cpu', emaDecay: 0.5 })
  await ddpm.loadStateDict(await weights(), { strict: false })
  ddpm.configureOptimizers({ lr: 0.1, weightDecay: 0 })
  for (let step = 0; step < steps; step++) await ddpm.trainBatch(images, { step })
  return ddpm
}

const image = async (ddpm: DDPM) => (await ddpm.sample(drawn)).data()

describe('models with low-rank updates', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-lora-'))
  })
  after(() => rm(folder, { recursive: true }))
  const at = (name: string) => path.join(folder, name)

  for (const backend of testedBackends) {
    it(`${backend}: train nothing else, and are the same merged, beside, and from either kind of file`, async () => {
      using ddpm = await trained(backend as 'cpu', { rank: 2 }, 2)
      const before = await weights()
      const state = await ddpm.stateDict()
      for (const [name, tensor] of Object.entries(before)) {
        assert.deepEqual(await state[`model.diffusion_model.${name}`].data(), await tensor.data(), name)
      }
      const expected = await ddpm.emaScope(() => image(ddpm))
      using plain = new DDPM({ ...base, useEma: false, device: backend as 'cpu' })
      await plain.loadStateDict(before, { strict: false })
      const changed = await image(plain)
      assert.ok(expected.some((v, i) => Math.abs(v - changed[i]) > 0.01))
      for (const names of ['peft', 'kohya'] as const) {
        const file = at(`${backend}-${names}.safetensors`)
        await ddpm.saveLora(file, { names })
        // Kernels of GPUs take their time on a CPU.
        const both = backend === 'cuda-host' ? [names === 'peft'] : [true, false]
        for (const merge of both) {
          using again = await plain.withLoras([{ path: file }], { merge })
          assertCloseToScale(await image(again), expected, 1e-4, `${names}, ${merge ? 'merged' : 'beside'}`)
        }
      }
      using merged = await ddpm.merged()
      assert.equal(merged.config.lora, undefined)
      assertCloseToScale(await merged.emaScope(() => image(merged)), expected, 1e-4, 'merged()')
    })
  }

  it('resume to the bit', async () => {
    using whole = await trained('cpu', { rank: 2 }, 4)
    using first = await trained('cpu', { rank: 2 }, 2)
    using second = new DDPM({ ...base, lora: { rank: 2 }, device: 'cpu', emaDecay: 0.5 })
    second.configureOptimizers({ lr: 0.1, weightDecay: 0 })
    await second.loadTrainingState(await first.trainingState())
    for (let step = 2; step < 4; step++) await second.trainBatch(images, { step })
    const [a, b] = [await whole.stateDict(), await second.stateDict()]
    for (const name of Object.keys(a)) assert.deepEqual(await b[name].values(), await a[name].values(), name)
    const { m, weights: all } = await second.trainingState()
    assert.ok(
      Object.keys(m).every((name) => name.includes('.lora_')) && Object.keys(all).length > Object.keys(m).length,
    )
  })

  it('a file holds them alone; a scale and several files add up', async () => {
    using ddpm = await trained('cpu', { rank: 4, targets: ['*.qkv', '*.proj_out'] })
    const file = at('attention.safetensors')
    await ddpm.saveLora(file, { weights: 'model' })
    assert.ok(statSync(file).size < 30_000)
    const { tensors, metadata } = await readSafetensors(file)
    assert.equal(metadata.format, 'pt')
    assert.ok(Object.keys(tensors).every((name) => /^unet\..*\.(qkv|proj_out)\.lora_[AB]\.weight$/.test(name)))
    using plain = new DDPM({ ...base, useEma: false, device: 'cpu' })
    await plain.loadStateDict(await weights(), { strict: false })
    using none = await plain.withLoras(
      [
        { path: file, scale: 0.7 },
        { path: file, scale: -0.7 },
      ],
      { merge: false },
    )
    assertCloseToScale(await image(none), await image(plain), 1e-5, 'opposite scales')
    using twice = await plain.withLoras([
      { path: file, scale: 0.25 },
      { path: file, scale: 0.75 },
    ])
    using once = await plain.withLoras([{ path: file }])
    assertCloseToScale(await image(twice), await image(once), 1e-4, 'parts')
    const alphas: Record<string, StoredTensor> = { ...tensors }
    for (const name of Object.keys(tensors).filter((key) => key.includes('lora_A'))) {
      alphas[name.replace('.lora_A.weight', '.alpha')] = { dtype: 'F32', shape: [], data: Float32Array.of(2) }
    }
    await writeSafetensors(at('alpha.safetensors'), alphas)
    using half = await plain.withLoras([{ path: at('alpha.safetensors'), scale: 2 }]) // alpha / rank is 1/2
    assertCloseToScale(await image(half), await image(once), 1e-4, 'alpha')
  })

  it('are merged in what is written for others', async () => {
    using ddpm = await trained('cpu', { rank: 2 })
    await ddpm.savePretrained(at('diffusers'))
    using opened = await DDPM.fromPretrained(at('diffusers'), { device: 'cpu' })
    assertCloseToScale(await image(opened), await ddpm.emaScope(() => image(ddpm)), 1e-4, 'savePretrained')
  })

  it('are refused where they do not fit', async () => {
    using plain = new DDPM({ ...base, useEma: false, device: 'cpu' })
    const refused = async (tensors: Record<string, number[]>, code: string, message: RegExp) => {
      const file = at('refused.safetensors')
      const stored = Object.entries(tensors).map(([name, shape]) => {
        return [name, { dtype: 'F32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }] as const
      })
      await writeSafetensors(file, Object.fromEntries(stored))
      await assert.rejects(plain.withLoras([{ path: file }]), { name: 'DiffusionError', code, message })
    }
    const [down, up] = ['unet.time_embed.0.lora_A.weight', 'unet.time_embed.0.lora_B.weight']
    await refused({ [down]: [2, 32], [up]: [128, 3] }, 'state-mismatch', /is no update of a weight \[64, 16\]/)
    await refused({ [down]: [2, 31], [up]: [128, 2] }, 'state-mismatch', /is no update/)
    await refused({ [down]: [2, 32] }, 'bad-file', /one of two parts/)
    await refused({ 'unet.time_embed.7.lora_A.weight': [2, 32] }, 'state-mismatch', /no layer for 'unet.time_embed.7/)
    await refused({ [down]: [2, 32], 'x.dora_scale': [1] }, 'unsupported', /DoRA/)
    await refused({ 'time_embed.0.weight': [128, 32] }, 'bad-file', /no low-rank updates/)
    await assert.rejects(plain.withLoras([]), { code: 'invalid-argument', argument: 'loras' })
    await assert.rejects(plain.saveLora(at('none')), { code: 'unsupported' })
    assert.throws(() => new DDPM({ model: (x) => x, timesteps: 4, lora: { rank: 1 } }), { argument: 'lora' })
  })
})
