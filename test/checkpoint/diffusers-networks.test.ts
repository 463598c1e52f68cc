// Folders of UNet2DModels with skip blocks, Fourier and learned time embeddings, such as google/ncsnpp-*.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { DDPM, Tensor, UNet } from '../../lib/index'
import { Golden } from '../nn/golden'
import { hashedWeights } from '../nn/hashed-weights'
import { assertSameBits } from '../support/compare'
import { open, WorkFolder, weightsOf } from './diffusers-support'

const timesteps = 800

async function model(name: string): Promise<DDPM> {
  const golden = await Golden.open(`${name}.safetensors`)
  const unet = UNet.fromDiffusers(golden.config.unet2d)
  const ddpm = new DDPM({ model: unet, timesteps, device: 'cpu', ...{ imageSize: unet.imageSize, channels: 3 } })
  const dict = hashedWeights(unet.parameters)
  await ddpm.loadStateDict(
    Object.fromEntries(Object.entries(dict).map(([key, tensor]) => [`model.diffusion_model.${key}`, tensor])),
    { strict: false },
  )
  return ddpm
}

describe('folders of UNet2DModels with skip blocks', () => {
  const work = new WorkFolder()

  for (const name of ['unet2d_skip_fourier', 'unet2d_ncsnpp', 'unet2d_learned']) {
    it(`${name} is read as it was written, with what is not trained`, async () => {
      using ddpm = await model(name)
      await ddpm.savePretrained(work.folder)
      using again = await open(work.folder)
      assert.deepEqual((again.network as UNet).options, (ddpm.network as UNet).options)
      const [before, after] = [await weightsOf(ddpm), await weightsOf(again)]
      assert.deepEqual(Object.keys(after), Object.keys(before))
      for (const [key, values] of Object.entries(before)) assertSameBits(after[key], values, key)
      assert.ok(Object.keys(after).some((key) => key.endsWith('time_proj.weight')))
      const fourier = name !== 'unet2d_learned'
      assert.equal(again.warnings().filter((warning) => /timestep 0/.test(warning)).length, fourier ? 1 : 0)
    })
  }

  it('training changes all weights but the Fourier frequencies', async () => {
    using ddpm = await model('unet2d_skip_fourier')
    const before = await weightsOf(ddpm)
    ddpm.configureOptimizers({ lr: 0.01, weightDecay: 0.1 })
    const x = Tensor.from(new Float32Array(3 * 256).fill(0.5), [1, 16, 16, 3])
    await ddpm.trainingStep({ image: x }, { t: Int32Array.of(7) })
    const after = await weightsOf(ddpm)
    const same = Object.keys(before).filter((key) => before[key].every((v, i) => v === after[key][i]))
    assert.deepEqual(
      same.map((key) => key.replace(/^.*diffusion_model\./, '')),
      ['time_proj.weight'],
    )
  })

  it('of another process: named, and the network opens as the message says', async () => {
    using ddpm = await model('unet2d_skip_fourier')
    await ddpm.savePretrained(work.folder)
    await work.edit('scheduler/scheduler_config.json', (json) => {
      json._class_name = 'ScoreSdeVeScheduler'
    })
    await work.rejects({
      code: 'unsupported',
      argument: '_class_name',
      message: /ScoreSdeVeScheduler.*UNet\.fromDiffusers/,
    })
    const config = JSON.parse(await readFile(path.join(work.folder, 'unet', 'config.json'), 'utf8'))
    using other = new DDPM({ model: UNet.fromDiffusers(config), device: 'cpu', imageSize: 16 })
    await other.initFromCkpt(path.join(work.folder, 'unet', 'diffusion_pytorch_model.safetensors'))
    const [before, after] = [await weightsOf(ddpm), await weightsOf(other)]
    for (const [key, values] of Object.entries(before)) assertSameBits(after[key], values, key)
  })

  it('a schedule longer than a learned time embedding is refused', async () => {
    using ddpm = await model('unet2d_learned')
    const refused = { code: 'invalid-argument', argument: 'timesteps' }
    assert.throws(() => ddpm.registerSchedule({ timesteps: timesteps + 1 }), refused)
    assert.equal(ddpm.numTimesteps, timesteps)
    assert.throws(() => new DDPM({ model: ddpm.network!, imageSize: 8, device: 'cpu' }), refused)
  })
})
