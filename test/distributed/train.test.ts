/** Trainings of several processes compute what one does. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { temporaryFolder, writeImages } from '../train/support'
import { launch, resultOf, unlaunchable } from './launch'

interface Result {
  readonly ranks: number
  readonly weights: string
  readonly averages: readonly string[]
  readonly moments: readonly string[]
  readonly inUse: number
  readonly losses: readonly number[]
  readonly norms: readonly number[]
  readonly isSame: boolean
  readonly sent: number
  readonly parameters: number
}

describe('training by ranks', () => {
  before(function () {
    if (!unlaunchable) return
    console.log(`      Skipped: ${unlaunchable}`)
    this.skip()
  })

  const run = async (ranks: number, ...args: (string | number)[]) =>
    resultOf<Result>(await launch(ranks, 'train-child.js', args).ended)

  for (const [steps, batches, counts] of [
    [6, 6, [2, 3]],
    [3, 4, [4]],
  ] as const) {
    it(`${steps} steps of ${batches} batches have the same bits on 1, ${counts.join(', ')} ranks, with and without shards`, async () => {
      const numbersOf = ({ weights, averages, moments, losses, norms }: Result) => ({
        ...{ weights, averages, moments, losses, norms },
      })
      const alone = await run(1, steps, batches)
      assert.equal(alone.losses.length, steps * batches)
      assert.ok(alone.norms.every((norm) => norm > 0))
      for (const ranks of counts) {
        const whole = await run(ranks, steps, batches, 'fp32', 'whole', 'auto', 'auto', 1) // rank 1 starts late
        const shards = await run(ranks, steps, batches, 'fp32', 'shards')
        for (const other of [whole, shards]) {
          assert.ok(other.isSame, 'all ranks have the same weights')
          assert.deepEqual(numbersOf(other), numbersOf(alone))
          // A ring sends 2 (n - 1) / n of the bank; so does this, where a rank's batches are a node of the tree.
          const nodes = batches / ranks === 3 ? 2 : 1
          const banks = ((nodes + 1) * (ranks - 1)) / ranks
          const sent = other.sent / steps / (4 * other.parameters)
          assert.ok(sent > banks && sent < 1.02 * banks, `${sent} of the bank were sent, not ${banks}`)
        }
        // Of four banks (two moments, two averages) a rank keeps its part.
        const saved = (whole.inUse - shards.inUse) / (4 * 4 * alone.parameters)
        const expected = (ranks - 1) / ranks
        assert.ok(Math.abs(saved - expected) < 0.05, `${saved} of the banks are saved, not ${expected}`)
      }
    })
  }

  it('the example trains what it trains alone', async () => {
    const folder = temporaryFolder()
    await writeImages(path.join(folder, 'photos'), 40)
    const example = path.join(__dirname, '..', '..', '..', 'examples', 'train-together.mjs')
    const models: Buffer[] = []
    for (const ranks of [1, 2]) {
      const model = path.join(folder, String(ranks))
      const { code, output } = await launch(ranks, example, [path.join(folder, 'photos'), model, 1, 2]).ended
      assert.equal(code, 0, output)
      models.push(readFileSync(path.join(model, 'unet', 'diffusion_pytorch_model.safetensors')))
    }
    assert.ok(models[0].equals(models[1]))
  })

  const failing = async (ranks: number, mode: string, env: Record<string, string> = {}) => {
    const { code, output } = await launch(ranks, 'failing-child.js', [mode], env).ended
    assert.notEqual(code, 0, output)
    return output
  }

  it('ranks with different options are told apart before the first update', async () => {
    const output = await failing(3, 'accumulate')
    assert.match(output, /rank-failed/)
    assert.match(output, /rank 2 has batches 2, rank 0 has 1/)
  })

  it('and so are those with another rate', async () => {
    assert.match(await failing(2, 'rate'), /rank 1 has lr 0\.002, rank 0 has 0\.001/)
  })

  it('and with other weights', async () => {
    assert.match(await failing(2, 'seed'), /rank 1 has the checksum of weights \d+, rank 0 has \d+/)
  })

  it('or with weights that are not the same any more, by one bit', async () => {
    assert.match(await failing(2, 'diverged'), /rank-failed.*rank 1 has the checksum of weights/s)
  })

  it('a rank that does not come is waited for no longer than DDPM_DISTRIBUTED_TIMEOUT', async () => {
    const output = await failing(2, 'late', { DDPM_DISTRIBUTED_TIMEOUT: '4' })
    assert.match(output, /gather of rank 0 of 2: not all ranks came to it within 4 seconds/)
    assert.match(output, /code: 'rank-failed'/)
  })

  it('nor is one that never joins', async () => {
    const output = await failing(2, 'absent', { DDPM_DISTRIBUTED_TIMEOUT: '1' })
    assert.match(output, /not all ranks joined within 1 seconds/)
    assert.match(output, /code: 'rank-failed'/)
  })

  it('a rank that is killed ends the others', async () => {
    await failing(3, 'killed')
  })

  it('a rank that throws ends the others', async () => {
    assert.match(await failing(3, 'throws'), /no such luck/)
  })

  it('batches of several sizes in a step are refused, where ranks could not know which samples are theirs', async () => {
    assert.match(await failing(2, 'sizes'), /ranks have batches of one size in a step/)
  })

  it('a worker thread is refused', async () => {
    const { code, output } = await launch(2, 'worker-child.js').ended
    assert.notEqual(code, 0)
    assert.match(output, /a worker thread trains alone/)
  })

  it('a sampler of timesteps that learns from all losses is refused', async () => {
    assert.match(await failing(2, 'losses'), /loss-second-moment/)
  })
})
