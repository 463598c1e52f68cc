// The CUDA library where kernels are launched, captured, allocated for and lost, but compute nothing: on a stand-in for the
// CUDA runtime that checks what a GPU would not (test/fake-cudart). Each case has a process of its own.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { misused, StandIn, type StandInSettings } from '../support/fake-cudart'
import { fakeCudnn } from '../support/fake-cudnn'
import type { Attempt } from './stand-in-child'

const child = path.join(__dirname, 'stand-in-child.js')
const mocha = require.resolve('mocha/bin/mocha.js')

let standIn: StandIn

function run<T>(scene: string, argument: string | number, settings: StandInSettings = {}, env: NodeJS.ProcessEnv = {}) {
  const ended = standIn.run([child, scene, String(argument)], settings, env)
  assert.equal(ended.status, 0, `${ended.signal ?? ''} ${ended.stderr}`)
  return { ...(JSON.parse(ended.stdout) as T), ...ended }
}

const pixels = 2 * 3 * 64

describe('the CUDA library on a stand-in for the CUDA runtime', function () {
  this.timeout(300_000)

  before(function () {
    standIn = StandIn.make(this)
  })
  after(() => standIn?.remove())

  it('samples and trains, records, and gives everything back', () => {
    const ran = run<{ results: { pixels: number; warnings: string[] }[]; inUse: number }>('work', 1)
    assert.deepEqual(
      ran.results.map((r) => r.pixels),
      [pixels, pixels, pixels],
    )
    for (const { warnings } of ran.results) assert.deepEqual(warnings, [])
    assert.equal(ran.inUse, 0)
    const { counts } = ran.report
    assert.ok(counts.capture >= 6, JSON.stringify(counts)) // of sampling and of training in three precisions
    assert.ok(counts['graph launch'] > counts.capture, JSON.stringify(counts))
    assert.equal(counts.allocation, counts.release, JSON.stringify(counts))
    assert.equal(counts['invalidated capture'] ?? 0, 0)
  })

  it('runs on two devices in one process', () => {
    const { results } = run<{ results: { name: string; pixels: number }[] }>('work', 2, { devices: 2 })
    assert.deepEqual(
      results.filter((r) => r.pixels === pixels).map((r) => r.name),
      [...['cuda:0', 'cuda:0', 'cuda:0'], ...['cuda:1', 'cuda:1', 'cuda:1']],
    )
  })

  for (const precision of ['fp32', 'bf16']) {
    it(`builds, times and records plans of cuDNN's stand-in, ${precision}`, () => {
      const ran = run<{ pixels: number; warnings: string[]; libraries: string }>(
        ...(['sample', precision, {}, { DDPM_CUDNN: fakeCudnn, DDPM_DEBUG: 'plan' }] as const),
      )
      assert.deepEqual([ran.pixels, ran.warnings], [pixels, []])
      assert.match(ran.libraries, /^cuDNN 9/)
      assert.match(ran.stderr, /Conv2d .*: .*; timed: .*cuDNN engine/)
    })
  }

  it('runs every op, in launches that the kernels have registers and shared memory for', () => {
    const ended = standIn.run(
      [
        ...[
          mocha,
          '--no-config',
          '--timeout',
          '120000',
          '--require',
          path.join(__dirname, '..', 'support', 'run-only.js'),
        ],
        ...[
          '--grep',
          '^(op |convolution on tensor cores every tile|gaussianNoise )(?!.*(cuda-host|Winograd))',
          path.join(__dirname, '..', 'ops', '*.test.js'),
        ],
      ],
      {},
      { DDPM_TEST_DEVICE: 'cuda' },
    )
    assert.equal(ended.status, 0, `${ended.signal ?? ''} ${ended.stdout.slice(-4000)} ${ended.stderr.slice(-2000)}`)
    const kernels = Object.entries(ended.report.kernels)
    const never = kernels.filter(([, launches]) => launches === 0).map(([name]) => name)
    console.log(`    ${kernels.length - never.length} of ${kernels.length} kernels launched`)
    assert.ok(never.length < kernels.length / 10, never.join('\n'))
  })

  describe('an error of the runtime', () => {
    interface Struck {
      first: Attempt
      struck: Attempt[]
      after: Attempt
      warnings: string[]
      another: Attempt
      cpu: Attempt
    }
    const strike = (fail: string, settings: StandInSettings = {}) =>
      run<Struck>('fault', fail, { devices: 2, ...settings })
    const fine = { pixels }
    const codes = (attempts: readonly Attempt[]) => attempts.map(({ code }) => code ?? 'fine')

    /** cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorUnknown: what is lost is this GPU, for this process. */
    for (const status of [700, 719, 999]) {
      for (const call of [
        'cudaStreamSynchronize#3',
        'cudaGraphLaunch',
        'launch',
        'cudaMemcpyAsync#2',
        'cudaSetDevice#5',
      ]) {
        it(`${status} from ${call}: this device is lost, the other and the CPU go on`, () => {
          const ran = strike(`${call}=${status}`)
          assert.deepEqual(ran.first, fine)
          const lost = codes(ran.struck).indexOf('device-unavailable')
          assert.ok(lost >= 0, JSON.stringify(ran.struck))
          assert.deepEqual(
            codes(ran.struck.slice(lost)),
            ran.struck.slice(lost).map(() => 'device-unavailable'),
          )
          assert.match(ran.struck[lost].message!, new RegExp(`cudaError${status}`))
          assert.equal(ran.after.code, 'device-unavailable')
          assert.deepEqual([ran.another, ran.cpu], [fine, fine])
        })
      }
    }

    for (const [call, status] of [
      ['cudaStreamBeginCapture', 900],
      ['captured launch#20', 900],
      ['cudaStreamEndCapture', 901],
      ['cudaGraphInstantiate', 2],
      ['cudaGraphInstantiate', 801],
    ] as const) {
      it(`${status} from ${call}: the program runs unrecorded, with one warning`, () => {
        const ran = strike(`${call}=${status}`)
        assert.deepEqual(codes(ran.struck), ['fine', 'fine', 'fine'])
        assert.deepEqual([ran.after, ran.another, ran.cpu], [fine, fine, fine])
        assert.equal(ran.report.counts.fault, 1)
        assert.equal(ran.warnings.length, 1, JSON.stringify(ran.warnings))
        assert.match(ran.warnings[0], new RegExp(`cudaError${status}`))
      })
    }

    it('701 from a launch: the kernel and its configuration are named, the device goes on', () => {
      const ran = strike('launch=701')
      assert.deepEqual(codes(ran.struck), ['internal', 'fine', 'fine'])
      assert.match(
        ran.struck[0].message!,
        /kernel .+ \(\d+ x \d+ x \d+ blocks of .* could not be launched: cudaError701/,
      )
      assert.deepEqual([ran.after, ran.another, ran.cpu], [fine, fine, fine])
    })

    it('no memory for a program at first: what the pool keeps is given back, and it is asked for again', () => {
      const ran = strike('cudaMallocFromPoolAsync=2')
      assert.deepEqual(codes(ran.struck), ['fine', 'fine', 'fine'])
      assert.ok(ran.report.counts.trim > 0)
    })

    it('no memory at all: out-of-memory with the bytes, and what is smaller runs', () => {
      const ran = run<{ refused: Attempt; large: Attempt; small: Attempt }>('large', 4096, { memory: 64 << 20 })
      assert.equal(ran.refused.code, 'out-of-memory')
      assert.match(ran.refused.message!, /^memoryLimit: .* of the memory of cuda.*, and it has 67\.1 MB/)
      assert.equal(ran.large.code, 'out-of-memory')
      assert.match(ran.large.message!, /cuda:0 is out of memory: \d+ bytes asked for, \d+ of 67108864 free/)
      assert.equal(ran.small.pixels, 3 * 64)
    })

    for (const [what, settings, why] of [
      ['no pools', { pools: false }, /memory by cudaMalloc, not from a pool: the driver has no pools/],
      ['a pool that cannot be made', { fail: 'cudaMemPoolCreate=801' }, /not from a pool: cudaError801/],
      ['a pool that cannot be set up', { fail: 'cudaMemPoolSetAttribute=1' }, /not from a pool: cudaError1\b/],
    ] as const) {
      it(`${what}: memory by cudaMalloc, and reports say so`, () => {
        const ran = run<{ results: { pixels: number }[]; libraries: string; inUse: number }>('work', 1, settings)
        assert.deepEqual(
          ran.results.map((r) => r.pixels),
          [pixels, pixels, pixels],
        )
        assert.match(ran.libraries, why)
        assert.equal(ran.report.counts.allocation, ran.report.counts.release)
      })
    }

    it('a GPU that the library has no code for: both architectures are named, the CPU goes on', () => {
      const ran = run<{ results: { struck: Attempt }[]; cpu: Attempt }>('faults', '["none=0"]', { architecture: 75 })
      const [{ struck }] = ran.results
      assert.equal(struck.code, 'device-unavailable')
      assert.match(struck.message!, /compute capability 7\.5\), and this library has code for sm_\d+.* only/)
      assert.deepEqual(ran.cpu, fine)
    })

    it('in any call, and at any time: a DiffusionError or none at all, and then the device goes on', () => {
      const calls = [
        ...[
          'cudaSetDevice',
          'cudaGetDeviceCount',
          'cudaGetDeviceProperties',
          'cudaFuncGetAttributes',
          'cudaMemGetInfo',
        ],
        ...['cudaMemPoolCreate', 'cudaMallocFromPoolAsync', 'cudaFreeAsync', 'cudaMemcpyAsync', 'cudaFuncSetAttribute'],
        ...[
          'cudaStreamCreateWithFlags',
          'cudaStreamSynchronize',
          'launch',
          'cudaStreamBeginCapture',
          'captured launch',
        ],
        ...['cudaStreamEndCapture', 'cudaGraphInstantiate', 'cudaGraphLaunch', 'cudaDeviceGetAttribute'],
      ]
      const faults = calls.flatMap((call) =>
        [1, 2, 3, 7, 40, 300].flatMap((n) => [1, 2].map((s) => `${call}#${n}=${s}`)),
      )
      const ran = run<{ results: { fail: string; struck: Attempt; after: Attempt }[]; cpu: Attempt }>(
        ...(['faults', JSON.stringify(faults), { devices: faults.length, memory: 256 << 20 }] as const),
      )
      for (const { fail, after } of ran.results) {
        // Memory that was not freed is told of when it is next waited for.
        if (!fail.startsWith('cudaFreeAsync') || after.code === undefined) assert.deepEqual(after, fine, fail)
        else assert.match(after.message!, /memory was not freed/)
      }
      assert.deepEqual(ran.cpu, fine)
      const failed = ran.results.filter(({ struck }) => struck.code !== undefined)
      console.log(
        `    ${ran.report.counts.fault} of ${faults.length} faults met a call, ${failed.length} were errors of the work`,
      )
      assert.ok(failed.length > 30)
    })
  })
})

describe('the stand-in for the CUDA runtime', () => {
  before(function () {
    StandIn.make(this).remove()
  })

  const twoDevices = { ...process.env, FAKE_CUDART_DEVICES: '2' }
  const cases: readonly (readonly [string, RegExp])[] = [
    ['used after it was freed', /uses \+\d+ in an allocation of 1024 bytes at \+\d+, which was freed/],
    ['used before it is there', /before the stream that allocates it was waited for/],
    ['freed while it is used', /is freed while another stream may still use it/],
    ['freed twice', /what is freed is not allocated/],
    ['too long a copy', /reaches beyond an allocation of 1024 bytes/],
    ["another device's memory", /uses memory of another device/],
    ['a recording of memory that was freed', /uses \+\d+ in an allocation .* which was freed/],
  ]
  for (const [name, violation] of cases) {
    it(`does not forgive: ${name}`, () => {
      const { signal, stderr } = spawnSync(misused, [name], { encoding: 'utf8', env: twoDevices })
      assert.equal(signal, 'SIGABRT')
      assert.match(stderr, violation)
    })
  }
  for (const [name, said] of [
    ['used once it is there', '0'],
    ['the pool goes first', '0'],
    ["another device's stream", '400'], // cudaErrorInvalidResourceHandle
    ['allocated while recording', '900'], // cudaErrorStreamCaptureUnsupported
    ['allocated by another thread while recording', '0'],
    ['allocated by another thread while all is recorded', '901'], // cudaErrorStreamCaptureInvalidated
    ['waited for while recording', '901'],
    ['a source that changes', 'new 0'],
    ['more than there is', '2'], // cudaErrorMemoryAllocation
  ] as const) {
    it(`answers as the runtime does: ${name}`, () => {
      const { status, stdout } = spawnSync(misused, [name], { encoding: 'utf8', env: twoDevices })
      assert.deepEqual([status, stdout.trim()], [0, said])
    })
  }
})
