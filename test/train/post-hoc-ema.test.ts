import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { postHocEma, Trainer } from '../../lib/index'
import { listCheckpoints, openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import { assertClose } from '../support/compare'
import { temporaryFolder, tinyModel, tinyTraining, writeImages } from './support'

describe('post-hoc averages of a run', () => {
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  const run = path.join(folder, 'run')
  const model = { ...tinyModel, emaSigmaRels: [0.05, 0.1] }
  const plan = { model, steps: 12, checkpointEvery: 3, keep: 10 }

  it('a resumed run has the averages of an unbroken one, to the bit', async () => {
    await writeImages(data, 8)
    await new Trainer(tinyTraining(data, run, plan)).run()
    const other = path.join(folder, 'resumed')
    const controller = new AbortController()
    const onStep = ({ step }: { step: number }) => step === 7 && controller.abort()
    await new Trainer(tinyTraining(data, other, plan)).run({ signal: controller.signal, onStep })
    await new Trainer(tinyTraining(data, other, { ...plan, resume: true })).run()
    for (const name of ['ema-sigma-rel-0.05.safetensors', 'ema-sigma-rel-0.1.safetensors']) {
      const [ours, theirs] = [run, other].map((r) => readFileSync(path.join(r, 'checkpoints', 'step-00000012', name)))
      assert.ok(ours.equals(theirs), name)
    }
  })

  it('are those that were kept, and others between them', async () => {
    const name = 'input_blocks.0.0.weight'
    const [newest] = await listCheckpoints(run)
    const { powerEmas } = await readTrainingState(await openCheckpoint(newest))
    for (const [i, sigmaRel] of [0.05, 0.1].entries()) {
      const found = (await postHocEma(run, { sigmaRel }))[name]
      assertClose(await found.data(), await powerEmas![i][name].data(), { rel: 1e-5, abs: 1e-7 }, String(sigmaRel))
      assert.deepEqual(found.shape, powerEmas![i][name].shape)
    }
    const before = await postHocEma(run, { sigmaRel: 0.05, step: 6 })
    const { powerEmas: sixth } = await readTrainingState(await openCheckpoint((await listCheckpoints(run))[2]))
    assertClose(await before[name].data(), await sixth![0][name].data(), { rel: 1e-5, abs: 1e-7 }, 'step 6')
  })

  it('a run without them, and a step that it has not reached, are refused', async () => {
    await assert.rejects(postHocEma(run, { sigmaRel: 0.1, step: 13 }), { code: 'invalid-argument', argument: 'step' })
    await assert.rejects(postHocEma(run, { sigmaRel: 0.5 }), { code: 'invalid-argument', argument: 'sigmaRel' })
    const plain = path.join(folder, 'plain')
    await new Trainer(tinyTraining(data, plain, { steps: 1 })).run()
    await assert.rejects(postHocEma(plain, { sigmaRel: 0.1 }), { code: 'not-configured', argument: 'emaSigmaRels' })
  })
})
