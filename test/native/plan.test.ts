/** Placement and memory: what shares a place must not be seen to. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { Graph, type Value } from '../../lib/graph'
import type { Dims, NativeBuffer, NativeProgram } from '../../lib/native'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { count, normals, runGraph, type Values } from '../support/run-graph'

const dims: Dims = [2, 4, 4, 8]
const size = count(dims)

function compile(device: Device, build: (g: Graph) => Record<string, Value>): NativeProgram {
  const g = new Graph()
  const outputs = Object.fromEntries(Object.entries(build(g)).map(([name, value]) => [name, value.id]))
  return g.native.compile(device.native, outputs, {})
}

/** A random expression with sums, slices, concatenations and gradients; `seen` gets every value on the way. */
function randomExpression(g: Graph, inputs: Values, random: Random, seen: (v: Value) => void): Value {
  const values = [inputs.x, inputs.z]
  const pick = () => values[Math.floor(random.uniform() * values.length)]
  const ofEight = (v: Value): Value => {
    const [, , , c] = v.dims
    if (c === 8) return v
    return c > 8
      ? g.slice(v, { start: Math.floor(random.uniform() * (c - 7)), count: 8 })
      : ofEight(g.concat([v, pick()]))
  }
  const steps: ((v: Value) => Value)[] = [
    (v) => g.silu(v),
    (v) => g.gelu(v),
    (v) => g.add(ofEight(v), ofEight(pick())),
    (v) => g.concat([v, g.silu(pick())]),
    (v) => g.concat([v, v, pick()]),
    (v) => g.slice(v, { start: v.dims[3] >> 1, count: v.dims[3] - (v.dims[3] >> 1) }),
    (v) => g.groupNorm(ofEight(v), inputs.gamma, inputs.beta, { groups: 4, eps: 1e-5 }),
    (v) => g.linear(ofEight(v), inputs.weight),
    (v) => g.addSample(g.linear(ofEight(v), inputs.weight), inputs.e),
  ]
  for (let i = 0; i < 14; i++) {
    const next = steps[Math.floor(random.uniform() * steps.length)](pick())
    if (next.dims[3] > 40) continue
    values.push(next)
    seen(next)
  }
  return values.slice(2).reduce((sum, v) => g.add(ofEight(sum), ofEight(v)))
}

describe('memory plan', () => {
  it('random expressions have the same values when nothing may share memory', async () => {
    for (let seed = 0; seed < 60; seed++) {
      const random = new Random(seed)
      const vector: Dims = [1, 1, 1, 8]
      const feeds = {
        x: normals(random, dims),
        z: normals(random, dims),
        gamma: normals(random, vector),
        beta: normals(random, vector),
        e: normals(random, [2, 1, 1, 8]),
        weight: normals(random, [8, 1, 1, 8], 0.4),
        target: normals(random, dims),
        w: normals(random, [2, 1, 1, 1]),
      }
      const wrt = ['x', 'z', 'gamma', 'beta', 'e', 'weight']
      const run = (all: boolean) =>
        runGraph('cpu', feeds, (g, inputs) => {
          const outputs: Record<string, Value> = {}
          const y = randomExpression(g, inputs, new Random(1000 + seed), (v) => {
            // An output is in a buffer of its own and stays there.
            if (all) outputs[`value${Object.keys(outputs).length}`] = v
          })
          const loss = g.weightedSum(g.loss(y, inputs.target, { type: 'l2' }), inputs.w)
          const gradients = g.backward(
            loss,
            wrt.map((name) => inputs[name]),
          )
          gradients.forEach((gradient, i) => {
            if (gradient) outputs[`d_${wrt[i]}`] = gradient
          })
          return { ...outputs, y, loss }
        })
      const [apart, shared] = [await run(true), await run(false)]
      for (const name of Object.keys(shared))
        assertCloseToScale(shared[name], apart[name], 2e-5, `seed ${seed}: ${name}`)
    }
  })

  it('a chain needs the memory of its largest neighbours, known before it runs', () => {
    const program = compile(Device.open('cpu'), (g) => {
      let v = g.input('x', [1, 64, 64, 16])
      const w = g.input('w', [16, 3, 3, 16])
      for (let i = 0; i < 20; i++) v = g.conv2d(v, w, undefined, { stride: 1, padding: [1, 1, 1, 1] })
      return { y: v }
    })
    const tensor = 64 * 64 * 16 * 4
    const { arena, packed, scratch, total } = program.memory()
    assert.ok(arena >= 2 * tensor && arena < 2.5 * tensor, `${arena} bytes for two tensors of ${tensor}`)
    assert.equal(total, arena + packed + scratch)
    assert.match(program.describe(), /Conv2d /)
    program.release()
  })

  it('programs of one device share their arena', async () => {
    const device = Device.open('cpu')
    const build = (g: Graph) => ({ y: g.silu(g.gelu(g.silu(g.input('x', [1, 512, 512, 4])))) })
    await device.native.synchronize()
    const before = device.native.memoryInUse()
    const programs = [0, 1, 2].map(() => compile(device, build))
    await device.native.synchronize()
    const { arena, scratch } = programs[0].memory()
    assert.ok(device.native.memoryInUse() - before <= arena + scratch)
    for (const program of programs) program.release()
  })

  it('outputs may be inputs, parameters, slices, and the same value under two names', async () => {
    const x = normals(new Random(1), dims)
    const weights = new Random(2).normals(16)
    const out = await runGraph(
      'cpu',
      { x },
      (g, v) => {
        const y = g.silu(v.x)
        const p = g.parameter({ name: 'p', shape: [16], offset: 0 })
        return { same: v.x, p, part: g.slice(y, { start: 2, count: 3 }), first: y, second: y }
      },
      { banks: { weights } },
    )
    assertSameBits(out.same, x.data as Float32Array, 'an input')
    assertSameBits(out.p, weights, 'a parameter')
    assertSameBits(out.second, out.first, 'two names')
    assertSameBits(
      out.part,
      out.first.filter((_, i) => i % 8 >= 2 && i % 8 < 5),
      'a slice',
    )
  })

  it('an elementwise op may write over its input', async () => {
    const device = Device.open('cpu')
    const x = normals(new Random(1), dims).data as Float32Array
    const program = compile(device, (g) => ({ y: g.add(g.input('x', dims), g.input('z', dims)) }))
    const buffer = device.upload(x)
    await program.run({ x: buffer, z: buffer, y: buffer })
    assertSameBits(
      await buffer.read(),
      x.map((value) => value + value),
      'x + x in place of x',
    )
  })

  it('packed weights follow the weights, whoever writes them', async () => {
    const device = Device.open('cpu')
    const conv = compile(device, (g) => {
      const w = g.parameter({ name: 'w', shape: [16, 8, 3, 3], offset: 0 })
      return { y: g.conv2d(g.input('x', dims), w, undefined, { stride: 1, padding: [1, 1, 1, 1] }) }
    })
    const total = 16 * 8 * 9
    const [x, weights, other] = [size, total, total].map((n, i) => device.upload(new Random(i).normals(n)))
    const y = device.allocate(2 * 4 * 4 * 16)
    const run = async (w: NativeBuffer) => {
      await conv.run({ x, y, weights: w })
      return y.read()
    }
    const fresh = async (data: Float32Array) => {
      const w = device.upload(data)
      try {
        return await run(w)
      } finally {
        w.release()
      }
    }
    const first = await run(weights)
    assertSameBits(await run(other), await fresh(await other.read()), 'another buffer')
    assertSameBits(await run(weights), first, 'the first buffer again')
    weights.write(new Random(9).normals(total))
    assertSameBits(await run(weights), await fresh(await weights.read()), 'after write')
    weights.copyFrom(other)
    assertSameBits(await run(weights), await fresh(await other.read()), 'after copyFrom')

    const update = compile(device, (g) => {
      g.adamw(g.input('hyper', [1, 1, 1, 16]), g.gradSumSquares(total), { count: total })
      return {}
    })
    const banks = ['grads', 'm', 'v'].map((name, i) => [
      name,
      device.upload(new Random(i).normals(total).map(Math.abs)),
    ])
    const hyper = device.upload(Float32Array.of(0.1, 0.1, 0.001, 1e-8, 0, 1, 1, 0, 1, ...new Array(7).fill(0)))
    await update.run({ hyper, weights, ...Object.fromEntries(banks) })
    assertSameBits(await run(weights), await fresh(await weights.read()), 'after an optimizer step')
  })

  it('a program that changes its weights keeps none packed, others do', () => {
    const device = Device.open('cpu')
    const program = (updates: boolean) =>
      compile(device, (g) => {
        const w = g.parameter({ name: 'w', shape: [16, 8, 3, 3], offset: 0 })
        const y = g.conv2d(g.input('x', dims), w, undefined, { stride: 1, padding: [1, 1, 1, 1] })
        if (updates) g.adamw(g.input('hyper', [1, 1, 1, 16]), g.gradSumSquares(1152), { count: 1152 })
        return { y }
      }).describe()
    assert.match(program(false), /\nwhen weights change: ConvPackWeights .* packed@packed/)
    assert.doesNotMatch(program(true), /ConvPackWeights/)
  })

  it('bindings are checked', () => {
    const device = Device.open('cpu')
    const program = compile(device, (g) => ({ y: g.silu(g.input('x', dims)) }))
    const [x, small] = [device.allocate(size), device.allocate(size - 1)]
    const refused = (bindings: Record<string, NativeBuffer>, argument: string, received: RegExp) =>
      assert.throws(
        () => program.run(bindings),
        (error: { code: string; argument: string; received: string }) => {
          assert.deepEqual([error.code, error.argument], ['invalid-argument', argument])
          assert.match(error.received, received)
          return true
        },
      )
    refused({ x }, 'y', /nothing/)
    refused({ x: small, y: x }, 'x', /255 elements/)
    refused({ x, y: x, label: x }, 'label', /'label'/)
    refused({ x, y: Device.open('reference').allocate(size) }, 'y', /another/)
    x.release()
    assert.throws(() => program.run({ x, y: small }), { code: 'closed' })
    program.release()
    assert.throws(() => program.memory(), { code: 'closed' })
  })
})
