import assert from 'node:assert/strict'
import { decayStart, learningRate } from '../../lib/train/lr-schedule'

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

  it('falls linearly to zero over the last fifth, and does not depend on the length before', () => {
    const at = (step: number, steps = 20) => learningRate(step, { lr: 2, warmup: 4, steps, lrSchedule: 'trapezoid' })
    assert.deepEqual(
      [0, 3, 4, 15, 16, 18, 20].map((step) => at(step)),
      [0.5, 2, 2, 2, 2, 1, 0],
    )
    for (let step = 0; step < 16; step++) assert.equal(at(step, 100), at(step))
    assert.deepEqual(
      [15, 16, 17].map((start) => at(start, start)),
      [0, 0, 0],
    )
  })

  it('says from which step on it depends on the length', () => {
    assert.equal(decayStart({ ...plan, lrSchedule: 'constant' }), Number.POSITIVE_INFINITY)
    assert.equal(decayStart({ ...plan, lrSchedule: 'cosine' }), 4)
    assert.equal(decayStart({ ...plan, lrSchedule: 'trapezoid' }), 9)
    assert.equal(decayStart({ ...plan, steps: 4, lrSchedule: 'trapezoid' }), 4)
  })
})
