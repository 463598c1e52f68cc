// Programs that are recorded (on a GPU: CUDA graphs) and replayed, on cuda-host or the device under test.
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { Graph as GraphBuilder } from '../../lib/graph'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { type NativeBuffer, type NativeDevice, native } from '../../lib/native'
import { assertSameBits } from '../support/compare'
import { testedBackends } from '../support/devices'
import { Random } from '../support/random'

const recorders = testedBackends.filter((name) => name.startsWith('cuda'))

/** With DDPM_DEBUG, which a device reads when it is opened. */
function withDebug<T>(debug: string | undefined, f: () => T): T {
  const before = process.env.DDPM_DEBUG
  const set = (value: string | undefined) => {
    if (value === undefined) delete process.env.DDPM_DEBUG
    else process.env.DDPM_DEBUG = value
  }
  set(debug)
  try {
    return f()
  } finally {
    set(before)
  }
}

const openDevice = (name: DeviceName, debug?: string) => {
  const [backend, index = '0'] = name.split(':')
  return withDebug(debug, () => native.openDevice(backend, Number(index), 0))
}

const compile = (device: NativeDevice, build: (g: Graph) => Record<string, Value>) => {
  const graph = new GraphBuilder()
  const outputs = Object.entries(build(graph)).map(([name, value]) => [name, value.id])
  return graph.native.compile(device, Object.fromEntries(outputs), {})
}

/** Convolution, norm, attention and a residual: arena, scratch and several kernels. */
function network(g: Graph): Record<string, Value> {
  const x = g.input('x', [2, 8, 8, 32])
  const w = g.input('w', [32, 3, 3, 32])
  const qkv = g.input('qkv', [96, 1, 1, 32])
  const [gamma, beta] = [g.input('gamma', [1, 1, 1, 32]), g.input('beta', [1, 1, 1, 32])]
  const h = g.conv2d(g.silu(g.groupNorm(x, gamma, beta, { groups: 4, eps: 1e-5 })), w, undefined, {
    stride: 1,
    padding: [1, 1, 1, 1],
  })
  const attended = g.attentionQkv(g.linear(h, qkv), { heads: 2, scale: 0.25, order: 'heads-first' })
  return { y: g.add(x, attended) }
}
const elements = 2 * 8 * 8 * 32

interface Bound {
  [name: string]: NativeBuffer
}

function bind(device: NativeDevice): Bound {
  const random = new Random(5)
  const sizes = { x: elements, w: 32 * 9 * 32, qkv: 96 * 32, gamma: 32, beta: 32, y: elements }
  return Object.fromEntries(
    Object.entries(sizes).map(([name, size]) => {
      const buffer = device.allocate(size)
      buffer.write(random.normals(size, 0.2))
      return [name, buffer]
    }),
  )
}

const image = (seed: number) => new Random(seed).normals(elements)

for (const name of recorders) {
  describe(`recorded programs on ${name}`, () => {
    let device: NativeDevice
    let direct: (x: Float32Array) => Promise<Float32Array>
    const devices: NativeDevice[] = []
    const open = (debug?: string) => {
      const opened = openDevice(name, debug)
      devices.push(opened)
      return opened
    }

    beforeEach(() => {
      device = open()
      const other = open('direct')
      const [program, bound] = [compile(other, network), bind(other)]
      direct = async (x) => {
        bound.x.write(x)
        await program.run(bound)
        assert.equal(program.launches().recorded, 0)
        return bound.y.read()
      }
    })
    afterEach(() => {
      for (const opened of devices.splice(0)) opened.close()
    })

    it('give the bits of direct execution, whatever the inputs hold then', async () => {
      const [program, bound] = [compile(device, network), bind(device)]
      for (let i = 0; i < 5; i++) {
        bound.x.write(image(i))
        await program.run(bound)
        assertSameBits(await bound.y.read(), await direct(image(i)), `run ${i}`)
      }
      assert.deepEqual(program.launches(), { direct: 1, recorded: 1, replayed: 4 })
    })

    it('are recorded again for other buffers, and both recordings are kept', async () => {
      const [program, bound] = [compile(device, network), bind(device)]
      const other = { ...bound, x: device.allocate(elements), y: device.allocate(elements) }
      for (let i = 0; i < 8; i++) {
        const now = i % 2 ? other : bound
        now.x.write(image(i))
        await program.run(now)
        assertSameBits(await now.y.read(), await direct(image(i)), `run ${i}`)
      }
      assert.deepEqual(program.launches(), { direct: 2, recorded: 2, replayed: 6 })
    })

    it('forget the buffers that were not used for longest, and those that were released', async () => {
      const [program, bound] = [compile(device, network), bind(device)]
      for (let i = 0; i < 12; i++) {
        const now = { ...bound, x: device.allocate(elements) }
        for (let k = 0; k < 3; k++) {
          now.x.write(image(i + k))
          await program.run(now)
          assertSameBits(await bound.y.read(), await direct(image(i + k)), `buffers ${i}, run ${k}`)
        }
        now.x.release()
      }
    })

    it('are recorded again when the workspace moves', async () => {
      const [program, bound] = [compile(device, network), bind(device)]
      const run = async (i: number) => {
        bound.x.write(image(i))
        await program.run(bound)
        assertSameBits(await bound.y.read(), await direct(image(i)), `run ${i}`)
      }
      for (let i = 0; i < 3; i++) await run(i)
      const large = compile(device, (g) => ({ y: g.silu(g.gelu(g.silu(g.input('x', [1, 256, 256, 16])))) }))
      for (let i = 3; i < 6; i++) await run(i)
      large.release() // and it shrinks
      for (let i = 6; i < 9; i++) await run(i)
    })

    it('of two programs take turns', async () => {
      const [first, second, bound] = [compile(device, network), compile(device, network), bind(device)]
      const back = { ...bound, x: bound.y, y: bound.x } // y becomes the next x
      const expected = await direct(await direct(image(1)))
      for (let i = 0; i < 4; i++) {
        bound.x.write(image(1))
        await first.run(bound)
        await second.run(back)
        assertSameBits(await bound.x.read(), expected, `round ${i}`)
      }
      assert.deepEqual(
        [first, second].map((p) => p.launches().replayed),
        [3, 3],
      )
    })

    it('survive the closing of their device, and it their release', async () => {
      const [program, other, bound] = [compile(device, network), compile(device, network), bind(device)]
      for (let i = 0; i < 3; i++) await program.run(bound)
      for (let i = 0; i < 3; i++) await other.run(bound)
      other.release()
      await program.run(bound)
      const running = [program.run(bound), program.run(bound)]
      device.close()
      for (const result of await Promise.allSettled(running))
        if (result.status === 'rejected') assert.equal(result.reason.code, 'closed')
      program.release()
    })

    it('are the steps of a sampling and of a training: one launch each', async () => {
      const options: DDPMOptions = {
        unetConfig: {
          ...{ imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 32 },
          ...{ channelMult: [1], numResBlocks: 1, attentionResolutions: [] },
        },
        ...{ imageSize: 4, channels: 1, timesteps: 50, seed: 3 },
      }
      const results = []
      for (const [threads, debug] of [
        [1, undefined],
        [2, 'direct'],
      ] as const) {
        const opened = withDebug(debug, () => Device.open(name, { threads })) // a device of its own
        using ddpm = new DDPM({ ...options, device: opened })
        const images = await (await ddpm.sample({ batchSize: 1, steps: 8, seed: 1 })).data()
        ddpm.configureOptimizers({ lr: 1e-3 })
        const losses = []
        for (let i = 0; i < 4; i++) losses.push((await ddpm.trainBatch(Tensor.randn([1, 1, 4, 4], { seed: i }))).loss)
        const programs = Object.entries(ddpm.memoryInfo().programs)
        const launches = (kind: string, runs: number) =>
          programs
            .map(([, { launches }]) => launches)
            .find((l, i) => {
              return programs[i][0].startsWith(kind) && l.direct + l.replayed === runs
            })
        results.push({ images, losses, step: launches('step', 8), training: launches('', 4) })
      }
      const [recorded, direct] = results
      assertSameBits(recorded.images, direct.images, 'images')
      assert.deepEqual(recorded.losses, direct.losses)
      assert.deepEqual(
        [direct.step, direct.training],
        [
          { direct: 8, recorded: 0, replayed: 0 },
          { direct: 4, recorded: 0, replayed: 0 },
        ],
      )
      // x and its successor change places, and the first step may pack weights: at most three that are not replayed.
      assert.ok(
        recorded.step && recorded.step.direct <= 3 && recorded.step.recorded === 2,
        JSON.stringify(recorded.step),
      )
      assert.ok(recorded.training && recorded.training.direct <= 2, JSON.stringify(recorded.training))
    })

    if (name === 'cuda-host') {
      describe('that cannot be recorded', () => {
        afterEach(() => delete process.env.DDPM_HOST_REFUSES_RECORDING)

        // A kernel in the middle of the program; the calls that begin and end a recording; no memory for it.
        for (const refused of ['attention', 'begin', 'end', 'out of memory']) {
          it(`(${refused}) are issued op by op from then on, with one warning`, async () => {
            process.env.DDPM_HOST_REFUSES_RECORDING = refused
            const [program, bound] = [compile(device, network), bind(device)]
            const other = { ...bound, x: device.allocate(elements) }
            for (let i = 0; i < 6; i++) {
              const now = i % 2 ? other : bound
              now.x.write(image(i))
              await program.run(now)
              assertSameBits(await bound.y.read(), await direct(image(i)), `run ${i}`)
            }
            delete process.env.DDPM_HOST_REFUSES_RECORDING
            await program.run(bound)
            assert.deepEqual(program.launches(), { direct: 7, recorded: 0, replayed: 0 })
            const [warning, ...more] = device.warnings()
            assert.match(warning, /^a program is issued op by op in every run, as it cannot be recorded: \S/)
            if (refused === 'attention') assert.match(warning, /: \w*Attention\w*: kernel attention/)
            assert.deepEqual(more, [])
            // Another program is not concerned.
            const sound = compile(device, network)
            for (let i = 0; i < 3; i++) await sound.run(bound)
            assert.deepEqual(sound.launches(), { direct: 1, recorded: 1, replayed: 2 })
          })
        }

        it('as the device is lost fail', async () => {
          const [program, bound] = [compile(device, network), bind(device)]
          await program.run(bound)
          process.env.DDPM_HOST_REFUSES_RECORDING = 'lost'
          await assert.rejects(program.run(bound), { code: 'device-unavailable', message: /the device is lost/ })
          assert.deepEqual(device.warnings(), [])
        })

        it('as a kernel fails fail, and are recorded when it does not', async () => {
          const [program, bound] = [compile(device, network), bind(device)]
          await program.run(bound)
          process.env.DDPM_HOST_REFUSES_RECORDING = 'end'
          process.env.DDPM_HOST_FAILS = '1'
          await assert
            .rejects(program.run(bound), { code: 'internal' })
            .finally(() => delete process.env.DDPM_HOST_FAILS)
          assert.deepEqual(device.warnings(), [])
          delete process.env.DDPM_HOST_REFUSES_RECORDING
          await program.run(bound)
          assert.deepEqual(program.launches(), { direct: 1, recorded: 1, replayed: 1 })
        })

        it('are warnings of a model', async () => {
          const unetConfig = {
            imageSize: 4,
            inChannels: 1,
            outChannels: 1,
            modelChannels: 32,
            channelMult: [1],
            numResBlocks: 1,
          }
          const options: DDPMOptions = {
            unetConfig: { ...unetConfig, attentionResolutions: [] },
            ...{ imageSize: 4, channels: 1, timesteps: 50, seed: 3 },
          }
          using ddpm = new DDPM({ ...options, device: Device.open(name, { threads: 3 }) }) // a device of its own
          assert.deepEqual(ddpm.warnings(), [])
          process.env.DDPM_HOST_REFUSES_RECORDING = 'begin'
          await ddpm.sample({ batchSize: 1, steps: 8, seed: 1 })
          assert.match(ddpm.warnings().join('\n'), /^a program .* could not be begun$/)
        })
      })

      it('fail where a kernel fails, and go on afterwards', async () => {
        const program = compile(device, (g) => ({
          y: g.embedding(g.input('index', [2, 1, 1, 1], 'i32'), g.input('table', [3, 1, 1, 4])),
        }))
        const bound: Bound = { index: device.allocate(2), table: device.allocate(12), y: device.allocate(8) }
        bound.table.write(Float32Array.from({ length: 12 }, (_, i) => i))
        const run = async (...index: number[]) => {
          bound.index.write(Int32Array.from(index))
          await program.run(bound)
          return [...(await bound.y.read())]
        }
        assert.deepEqual(await run(0, 2), [0, 1, 2, 3, 8, 9, 10, 11])
        for (let round = 0; round < 2; round++) {
          process.env.DDPM_HOST_FAILS = '1'
          await assert.rejects(run(1, 2), { code: 'internal' }).finally(() => delete process.env.DDPM_HOST_FAILS)
          assert.deepEqual(await run(1, 0), [4, 5, 6, 7, 0, 1, 2, 3])
        }
        assert.deepEqual(program.launches(), { direct: 1, recorded: 1, replayed: 2 }) // that worked
      })
    }

    it('wait for every op with DDPM_DEBUG=sync', async () => {
      const synchronized = open('sync')
      const [program, bound] = [compile(synchronized, network), bind(synchronized)]
      for (let i = 0; i < 3; i++) {
        bound.x.write(image(i))
        await program.run(bound)
        assertSameBits(await bound.y.read(), await direct(image(i)), `run ${i}`)
      }
      assert.deepEqual(program.launches(), { direct: 3, recorded: 0, replayed: 0 })
    })
  })
}
