import assert from 'node:assert/strict'
import { learningRate } from '../../lib/train/lr-schedule'

describe('learning rate', () => {
  const plan = { lr: 1, warmup: 4, steps: 12 }

  it('rises linearly and stays', () => {
    const rates = [0, 1, 2, 3, 4, 11].map((step) => learningRate(step, { ...plan, lrSchedule: 'constant' }))
    assert.deepEqual(rates, [0.25, 0.5, 0.75, 1, 1, 1])
    assert.equal(learningRate(0, { ...plan, warmup: 0, lrSchedule: 'constant' }), 1)
  })

  it('falls along a cosine to zero', () => {
    const at = (step: number) => learningRate(step, { ...plan, lrSchedule: 'cosine' })
    assert.equal(at(3), 1)
    assert.equal(at(4), 1)
    assert.ok(Math.abs(at(8) - 0.5) < 1e-12)
    assert.ok(at(11) > 0 && at(11) < 0.05)
    assert.equal(at(12), 0)
  })
})
