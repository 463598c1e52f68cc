// Non-leaking augmentation: what is drawn, what it does to pixels, and what is told of it.
import assert from 'node:assert/strict'
import { type Augmentation, augmentationAt, augmentationDim, warped } from '../../lib/data/augment'
import { openTrainingData } from '../../lib/data/open-data'
import { Dataset } from '../../lib/index'
import { augmentationDim as dimOfNetworks } from '../../lib/nn/unet/vector-embedding'
import { assertClose, assertSameBits } from '../support/compare'
import { Random } from '../support/random'

const [height, width] = [6, 10]
const o = { probability: 0.12, height, width, flip: true, flipVertical: false }
const count = 4000
const draw = (change: Partial<typeof o> = {}): Augmentation[] =>
  Array.from({ length: count }, (_, g) => augmentationAt(5, g, { ...o, ...change }))
/** What is done, by the numbers that are told: flip, flipVertical, scale, rotation, stretch, move. */
const kinds = ({ told }: Augmentation) =>
  [[0], [1], [2], [3, 4], [5, 6], [7, 8]].map((places) => places.some((i) => told[i] !== 0))
const close = (actual: readonly number[], expected: readonly number[], what: string) =>
  assertClose(actual, expected, { abs: 1e-6, rel: 1e-6 }, what)

describe('augmentation', () => {
  it('is drawn as often as it should be, each kind by itself, and the same at the same position', () => {
    assert.equal(augmentationDim, dimOfNetworks)
    const drawn = draw()
    const seen = drawn.map(kinds)
    const share = (fits: (kind: boolean[]) => boolean) => seen.filter(fits).length / count
    const near = (found: number, p: number, what: string) =>
      assertClose([found], [p], { abs: 4 * Math.sqrt((p * (1 - p)) / count), rel: 0 }, what)
    const p = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12]
    for (let i = 0; i < 6; i++) {
      near(
        share((kind) => kind[i]),
        p[i],
        `kind ${i}`,
      )
      for (let j = 0; j < i; j++)
        near(
          share((kind) => kind[i] && kind[j]),
          p[i] * p[j],
          `kinds ${i} and ${j}`,
        )
    }
    for (const [i, { flip, flipVertical, from }] of drawn.entries()) {
      const [x, y, ...others] = seen[i]
      assert.deepEqual([flip, flipVertical, from !== undefined], [x, y, others.includes(true)])
    }
    assert.deepEqual(augmentationAt(5, 1234, o), drawn[1234])
    assert.notDeepEqual(
      augmentationAt(6, 1234, { ...o, probability: 1 }),
      augmentationAt(5, 1234, { ...o, probability: 1 }),
    )
    const plain = draw({ flip: false, probability: 0 })
    assert.ok(plain.every(({ told, from }) => !from && told.every((v) => v === 0)))
  })

  it('the numbers have the distributions of the paper', () => {
    const all = draw({ probability: 1 }).map(({ told }) => told)
    const moments = (values: number[]) => {
      const mean = values.reduce((sum, v) => sum + v, 0) / count
      return [mean, values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / count]
    }
    for (const i of [2, 7, 8]) {
      const [mean, variance] = moments(all.map((told) => told[i]))
      assertClose([mean, variance], [0, 1], { abs: 0.1, rel: 0 }, `normal number ${i}`)
    }
    // Any angle: cos and sin of it, and a normal number times them.
    for (const [i, expected] of [
      [3, [-1, 0.5]],
      [4, [0, 0.5]],
      [5, [0, 0.5]],
      [6, [0, 0.5]],
    ] as const) {
      assertClose(moments(all.map((told) => told[i])), expected, { abs: 0.07, rel: 0 }, `number ${i}`)
    }
  })

  it('a pixel comes from where the numbers say', () => {
    const drawn = draw()
    const alone = (kind: number) => {
      const found = drawn.find((one) => kinds(one).every((is, i) => is === (i === kind) || i < 2))!
      return { told: found.told, from: found.from! }
    }
    const scaled = alone(2)
    const s = 2 ** (-0.2 * scaled.told[2])
    close(scaled.from, [s, 0, 0, s, 0, 0], 'scale')
    const turned = alone(3)
    const [cos, sin] = [1 + turned.told[3], turned.told[4]]
    close(turned.from, [cos, -sin, sin, cos, 0, 0], 'rotation')
    const moved = alone(5)
    close(moved.from, [1, 0, 0, 1, (-width / 8) * moved.told[7], (-height / 8) * moved.told[8]], 'move')
    // Symmetric, of determinant 1, and a multiple along the axis that is told.
    const stretched = alone(4)
    const [a, b, c, d] = stretched.from
    const [x, y] = [stretched.told[5], -stretched.told[6]]
    const amount = Math.hypot(x, y)
    close([b, a * d - b * c], [c, 1], 'stretch')
    const along = (a * x + b * y) / x
    close([c * x + d * y, Math.abs(Math.log2(along))], [along * y, 0.2 * amount], 'its axis')
  })

  it('an image is scaled, turned, stretched and then moved', () => {
    for (const { told, from } of draw({ probability: 1 }).slice(0, 100)) {
      const [a, b, c, d, e, f] = from!
      const s = 2 ** (-0.2 * told[2])
      close([a * d - b * c], [s * s], 'determinant')
      // Back along the move first.
      const [tx, ty] = [(width / 8) * told[7], (height / 8) * told[8]]
      close([e, f], [-(a * tx + b * ty), -(c * tx + d * ty)], 'move')
      // What is left without the rotation, on the left, is symmetric: the stretch, times the scale.
      const [cos, sin] = [1 + told[3], told[4]]
      const stretch = [cos * a + sin * c, cos * b + sin * d, -sin * a + cos * c, -sin * b + cos * d]
      close([stretch[1]], [stretch[2]], 'symmetric')
    }
  })

  const shape = { channels: 2, height, width }
  const picture = new Random(3).normals(2 * height * width, 0.3).map((v) => Math.max(-1, Math.min(1, v)))
  const at = (values: Float32Array, k: number, y: number, x: number) => values[(k * height + y) * width + x]

  it('pixels that fall on pixels are these; beyond the edges the image is mirrored', () => {
    assertSameBits(warped(picture, shape, [1, 0, 0, 1, 0, 0]), picture, 'nothing')
    const right = warped(picture, shape, [1, 0, 0, 1, -3, 1])
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const row = y + 1 < height ? y + 1 : height - 2
        assert.equal(at(right, 1, y, x), at(picture, 1, row, Math.abs(x - 3)), `${y}, ${x}`)
      }
    }
    const far = warped(picture, shape, [1, 0, 0, 1, 2 * (width - 1) * 5, -2 * (height - 1) * 7])
    assertSameBits(far, picture, 'whole periods')
    const square = { channels: 1, height: 4, width: 4 }
    const ramp = Float32Array.from({ length: 16 }, (_, i) => i / 16)
    const turned = warped(ramp, square, [0, -1, 1, 0, 0, 0]) // pixel (x, y) from (-y, x)
    for (let y = 0; y < 4; y++) for (let x = 0; x < 4; x++) assert.equal(turned[4 * y + x], ramp[4 * x + (3 - y)])
    assert.deepEqual([...warped(Float32Array.of(0.5), { channels: 1, height: 1, width: 1 }, [2, 1, 1, 2, 3, 4])], [0.5])
  })

  it('between pixels it is Keys’ cubic: exact on planes and on squares, and never beyond black and white', () => {
    const size = { channels: 1, height: 9, width: 9 }
    const of = (f: (x: number, y: number) => number) =>
      Float32Array.from({ length: 81 }, (_, i) => f((i % 9) - 4, Math.floor(i / 9) - 4))
    const from = [0.9, 0.2, -0.3, 0.8, 0.35, -0.6] as const
    const place = (x: number, y: number) => {
      const [a, b, c, d, e, f] = from
      return [a * x + b * y + e, c * x + d * y + f] as const
    }
    for (const f of [
      (x: number, y: number) => 0.1 * x - 0.05 * y + 0.1,
      (x: number, y: number) => 0.02 * x * x - 0.01 * y * y + 0.01 * x * y,
    ]) {
      const out = warped(of(f), size, from)
      for (let y = -2; y <= 2; y++) {
        for (let x = -2; x <= 2; x++) close([out[(y + 4) * 9 + x + 4]], [Math.fround(f(...place(x, y)))], `${x}, ${y}`)
      }
    }
    const edge = warped(
      of((x) => Math.sign(x + 0.5)),
      size,
      [1, 0, 0, 1, 0.5, 0],
    )
    assert.ok(edge.every((v) => v >= -1 && v <= 1))
    assert.ok(edge.some((v) => v === 1) && edge.some((v) => v === -1))
  })

  describe('of a dataset', () => {
    const random = new Random(7)
    const items = {
      length: 12,
      get: () => ({ data: Uint8Array.from(random.integers(3 * height * width, 256)), height, width, channels: 3 }),
    }
    const images = Array.from({ length: 12 }, () => items.get())
    const source = { length: 12, get: (i: number) => images[i] }
    const open = (more: object = {}) => Dataset.open(source, { size: [height, width], seed: 3, ...more })

    it('with probability 0 images are mirrored as without, which is told', async () => {
      const [plain, told] = await Promise.all([open({ flip: true }), open({ flip: true, augment: 0 })])
      const [a, b] = await Promise.all([plain.batch(0, 24), told.batch(0, 24)])
      assertSameBits(b.images, a.images, 'images')
      assert.equal(a.augmentation, undefined)
      const flips = [...b.augmentation!].filter((_, i) => i % augmentationDim === 0)
      assert.deepEqual([...new Set(flips)].sort(), [0, 1])
      assert.ok(b.augmentation!.every((v, i) => v === 0 || i % augmentationDim === 0))
      const still = await (await open({ augment: 0 })).batch(0, 24)
      assert.ok(still.augmentation!.every((v) => v === 0))
    })

    it('a batch is what its parts are, at another position another, and what is held out stays as it is', async () => {
      const data = await open({ flip: true, augment: 0.9 })
      const whole = await data.batch(0, 24)
      const part = await data.batch(10, 3)
      const size = 3 * height * width
      assertSameBits(part.images, whole.images.subarray(10 * size, 13 * size), 'images')
      assertSameBits(part.augmentation!, whole.augmentation!.subarray(90, 117), 'told')
      // The same twelve images again.
      const again = await data.batch(12, 12)
      assert.notDeepEqual(again.augmentation, whole.augmentation!.slice(0, 108))
      assert.ok(whole.images.every((v) => v >= -1 && v <= 1))
      const o = { size: [height, width] as const, flip: true, augment: 0.9 }
      const { data: trained, heldOut } = await openTrainingData(source, { ...o, validation: 0.4 })
      assert.ok((await trained.batch(0, 2)).augmentation)
      assert.equal((await heldOut!.batch(0, 2)).augmentation, undefined)
    })
  })
})
