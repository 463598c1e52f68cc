import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { LatentDiffusion } from '../../lib/diffusion/models/latent-diffusion'
import { runScript, temporaryFolder } from '../train/support'

const root = path.join(__dirname, '..', '..', '..')
const start = path.join(root, 'scripts', 'start.mjs')

describe('npm start', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const few = ['--steps', '4', '--device', 'cpu', '--no-preview']

  it('draws 16 prompts into samples.png, again and again', async () => {
    for (let run = 0; run < 2; run++) {
      const { code, stderr } = await runScript(start, few, folder)
      assert.equal(code, 0, stderr)
      assert.deepEqual(readdirSync(folder), ['samples.png'])
    }
    const { width, height } = await sharp(path.join(folder, 'samples.png')).metadata()
    assert.ok(width >= 4 * 64 && width === height, `${width}x${height}`)
  })

  it('draws the prompts that are given', async () => {
    const output = ['--prompt', 'red circle', '--prompt=yellow heart', '--output', 'two.png']
    const { code, stderr } = await runScript(start, [...output, ...few], folder)
    assert.equal(code, 0, stderr)
    const { width, height } = await sharp(path.join(folder, 'two.png')).metadata()
    assert.ok(height >= 64 && width > 1.9 * height && width < 2.1 * height, `${width}x${height}`)
  })

  it('has a model that follows words', async () => {
    using model = await LatentDiffusion.fromPretrained(path.join(root, 'models', 'emoji-64'), {
      ...{ variant: 'fp16', device: 'cpu' },
    })
    const prompts = ['red circle', 'green heart', 'yellow heart', 'blue square']
    const images = await model.sample({
      ...{ batchSize: 4, prompt: prompts, guidanceScale: 3, seed: 0 },
      ...{ sampler: 'dpmsolver++', steps: 10 },
    })
    const pixels = await images.data()
    // The mean of each channel in the middle of each picture.
    const means = prompts.map((_, i) =>
      [0, 1, 2].map((channel) => {
        let sum = 0
        for (let y = 24; y < 40; y++) {
          for (let x = 24; x < 40; x++) sum += pixels[((i * 3 + channel) * 64 + y) * 64 + x]
        }
        return sum / 256
      }),
    )
    const [red, green, yellow, blue] = means
    const text = JSON.stringify(means)
    assert.ok(red[0] > red[1] + 0.5 && red[0] > red[2] + 0.5, text)
    assert.ok(green[1] > green[0] + 0.3 && green[1] > green[2] + 0.3, text)
    assert.ok(yellow[0] > yellow[2] + 0.5 && yellow[1] > yellow[2] + 0.5, text)
    assert.ok(blue[2] > blue[0] + 0.5, text)
  })
})
