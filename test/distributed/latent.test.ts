/** Latent models and first stages trained by ranks: what one process computes, in one run folder. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { AutoencoderKL, Trainer } from '../../lib/index'
import { heldOutOf, stepsOf, temporaryFolder, writeImages } from '../train/support'
import { trainFirstStages } from './first-stage-child'
import { latentTraining } from './latent-child'
import { endAll, launch, unlaunchable } from './launch'

const ddconfig = {
  zChannels: 3,
  resolution: 16,
  inChannels: 3,
  outCh: 3,
  ch: 32,
  chMult: [1, 1],
  numResBlocks: 1,
  attnResolutions: [],
}

describe('latents by ranks', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)

  before(async function () {
    if (unlaunchable) {
      console.log(`      Skipped: ${unlaunchable}`)
      this.skip()
    }
    await writeImages(at('photos'), 10)
    for (const name of readdirSync(at('photos')))
      writeFileSync(at('photos', name.replace('.png', '.txt')), `a disc of ${name.slice(3, 4)}`)
  })

  afterEach(endAll)

  /** Weights, averages and moments of a step; the losses of all. */
  function stateOf(run: string, step: number) {
    const checkpoint = at(run, 'checkpoints', `step-0000000${step}`)
    const names = readdirSync(checkpoint).filter((name) => name.endsWith('.safetensors'))
    const files = Object.fromEntries(names.map((name) => [name, readFileSync(path.join(checkpoint, name), 'base64')]))
    const losses = stepsOf(at(run)).map(({ time, imagesPerSecond, ...own }) => own)
    return { files, losses, heldOut: heldOutOf(at(run)) }
  }

  async function together(ranks: number, script: string, ...args: (string | number)[]): Promise<void> {
    const { code, output } = await launch(ranks, script, args).ended
    assert.equal(code, 0, output)
  }

  it('a latent model has the bits of one process, with its text encoder and logvar, begun on two and gone on on three', async () => {
    using stage = new AutoencoderKL({ embedDim: 3, ddconfig, device: 'cpu' })
    await stage.savePretrained(at('vae'))
    await new Trainer(latentTraining(folder, at('alone'), { steps: 2, accumulate: 6 })).run()
    await together(2, 'latent-child.js', folder, at('ranks'), 1, 3)
    await together(3, 'latent-child.js', folder, at('ranks'), 2, 2)
    assert.deepEqual(stateOf('ranks', 2), stateOf('alone', 2))
    assert.ok(Object.keys(stateOf('ranks', 2).heldOut[0]).includes('val/loss'))
    assert.equal(readdirSync(at('ranks', 'latents')).length, 2, 'of the images, and of those held out')
  })

  it('first stages have the bits of one process, and a discriminator is refused', async () => {
    await trainFirstStages(folder, at('first'), { steps: 2, accumulate: 6 })
    await together(2, 'first-stage-child.js', folder, at('many'), 1, 3)
    await together(3, 'first-stage-child.js', folder, at('many'), 2, 2)
    for (const kind of ['kl', 'vq']) {
      assert.deepEqual(stateOf(`many-${kind}`, 2), stateOf(`first-${kind}`, 2))
      assert.ok(stateOf(`many-${kind}`, 2).losses.every(({ gradNorm }) => gradNorm! > 0))
    }
  })
})
