/** The sum over ranks as a step of a program: what goes out when. The numbers are test/distributed's. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { Graph, type Value } from '../../lib/graph'
import type { NativeProgram } from '../../lib/native'

/** Linear layers one after the other, each as large as a piece of the bank. */
const [layers, width] = [6, 1024]
const count = layers * width * width

function build(place: { rank: number; ranks: number; share: number }, before = (_: Graph) => {}): NativeProgram {
  const g = new Graph()
  let y: Value = g.input('x', [4, 1, 1, width])
  for (let i = 0; i < layers; i++) {
    const w = g.parameter({ name: `w${i}`, shape: [width, width], offset: i * width * width })
    y = g.silu(g.linear(y, w))
  }
  const error = g.loss(y, g.input('target', y.dims), { type: 'l2' })
  g.backward(g.weightedSum(error, g.input('scale', error.dims)))
  before(g)
  g.sumRanks({ count, ...place, keepsParts: false })
  const squares = g.gradSumSquares(count)
  return g.native.compile(Device.open('cpu').native, { squares: squares.id }, { reserve: false })
}

/** Of the line about the sum. */
function planOf(program: NativeProgram) {
  const [, pieces, after, steps] = /RankSum: (\d+) pieces, after steps([ \d]+) of (\d+)\n/.exec(program.describe())!
  return { pieces: Number(pieces), after: after.trim().split(' ').map(Number), steps: Number(steps) }
}

describe('the sum over ranks', () => {
  it('has a layer go out when its gradient is there, before the layers in front of it have theirs', () => {
    const program = build({ rank: 0, ranks: 2, share: 1 })
    const { pieces, after, steps } = planOf(program)
    assert.equal(pieces, layers)
    assert.deepEqual(
      after,
      [...after].sort((a, b) => a - b),
    )
    assert.equal(new Set(after).size, layers, 'each layer has a time of its own')
    assert.equal(after.at(-1), steps, 'the last gradient is the last step before the sum')
    const own = program.steps().filter(({ prologue }) => !prologue)
    const wgrads = own.flatMap(({ op }, i) => (op === 'Conv2dWgrad' ? [i + 1] : []))
    assert.deepEqual(after, wgrads)
  })

  it('names what the batches before the last gave', () => {
    for (const [rank, share, earlier] of [
      [1, 3, 2], // 3, 4, and the last is 5
      [0, 7, 2], // 0 to 3, 4 and 5, and the last is 6
      [1, 4, 2], // 4 and 5, 6, and the last is 7
      [1, 1, 0],
    ]) {
      const bound = Object.keys(build({ rank, ranks: 2, share }).memory().bound)
      const names = bound.filter((name) => name.startsWith('earlier-'))
      assert.equal(names.length, earlier, `${share} batches of rank ${rank}`)
    }
  })

  it('is one in a program, of ranks that there can be', () => {
    const place = { rank: 0, ranks: 2, share: 1 }
    assert.throws(() => build(place, (g) => g.sumRanks({ count, ...place, keepsParts: false })), {
      code: 'invalid-argument',
    })
    for (const wrong of [{ rank: 2 }, { rank: -1 }, { ranks: 1 }, { share: 0 }]) {
      assert.throws(() => build({ ...place, ...wrong }), { code: 'invalid-argument' })
    }
  })

  it('does not run in a process that trains alone', async () => {
    const device = Device.open('cpu')
    const g = new Graph()
    g.sumRanks({ count: 16, rank: 0, ranks: 2, share: 1, keepsParts: false })
    const program = g.native.compile(device.native, {}, {})
    await assert.rejects(program.run({ grads: device.allocate(16) }), { code: 'rank-failed' })
  })
})
