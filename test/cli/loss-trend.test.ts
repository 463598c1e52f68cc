import assert from 'node:assert/strict'
import { drawnNote, LossTrend, writtenNote } from '../../lib/cli/loss-trend'
import { Progress } from '../../lib/cli/progress'

const of = (losses: readonly number[]) => {
  const trend = new LossTrend()
  for (const loss of losses) trend.add(loss)
  return trend
}
const falling = Array.from({ length: 1000 }, (_, i) => 1 - i / 1000 + 0.05 * (i % 2))
const halving = Array.from({ length: 1000 }, (_, i) => 2 ** (-i / 100))
const steady = Array.from({ length: 1000 }, (_, i) => 0.5 + 0.05 * Math.sin(i * i))

describe('the loss in a terminal', () => {
  it('is a line from the first step to the last', () => {
    assert.equal(of(halving).sparkline(8), '█▇▆▅▄▃▂▁')
    assert.equal(of(halving.toReversed()).sparkline(8), '▁▂▃▄▅▆▇█')
    assert.equal(of([3, 1]).sparkline(8), '█▁')
    assert.equal(of([1]).sparkline(8), '▁')
    assert.equal(of([]).sparkline(8), '')
    assert.equal(of(Array.from({ length: 1e5 }, (_, i) => i)).sparkline(64).length <= 64, true)
  })

  it('falls, rises or stays where that is more than its scatter', () => {
    const { mean, change, clear } = of(falling).trend!
    assert.ok(Math.abs(mean - 0.0755) < 1e-3 && Math.abs(change + 0.1 / 0.1755) < 1e-2 && clear)
    assert.equal(of(steady).trend!.clear, false)
    assert.ok(of(falling.toReversed()).trend!.change > 0)
    assert.equal(of([1, 2, 3]).trend, undefined)
  })

  const standing = { loss: 0.12345, losses: of(halving), imagesPerSecond: 1234.5, heldOut: 0.2, best: 0.19 }

  it('is as much as fits', () => {
    const all = 'loss 0.1235 █▇▆▅▄▃▂▁↘ val 0.2000 best 0.1900 1234.5 images/s'
    assert.equal(drawnNote(standing, 80), all)
    assert.equal(drawnNote(standing, all.length - 1), 'loss 0.1235 █▇▆▅▄▃▂▁↘ val 0.2000 best 0.1900')
    assert.equal(drawnNote(standing, 40), 'loss 0.1235 █▇▆▅▄▃▂▁↘ val 0.2000')
    assert.equal(drawnNote(standing, 3), 'loss 0.1235')
    const plain = { ...standing, losses: of(steady), heldOut: undefined, best: undefined }
    assert.match(drawnNote(plain, 80), /^loss 0\.1235 \S{8}→ 1234\.5 images\/s$/)
  })

  it('fits 80 columns with the bar, late in a long training', () => {
    let text = ''
    const write = (s: string) => {
      text += s
    }
    for (const total of [2000, 800_000]) {
      text = ''
      const bar = new Progress({ isTTY: true, columns: 80, write }, { label: 'train', total, rate: false })
      bar.update(total, (room) => drawnNote(standing, room))
      const line = text.split('\x1b[K').at(-1)!
      assert.ok(line.length < 80, line)
      assert.match(line, /loss 0\.1235 █▇▆▅▄▃▂▁↘ val 0\.2000( best 0\.1900)?$/)
    }
  })

  it('is numbers in a log', () => {
    assert.equal(
      writtenNote(standing),
      'loss 0.1235  val 0.2000  best 0.1900  1234.5 images/s'.replace('0.1235', '0.1235 (mean 0.0014, -50.0%)'),
    )
    const first = { loss: 1, losses: of([1]), imagesPerSecond: 2 }
    assert.equal(writtenNote(first), 'loss 1.0000  2.0 images/s')
  })
})
