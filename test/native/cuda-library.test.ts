// The CUDA library where it cannot be used: what is said, and that the process goes on. Each case has a process of its own.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { native } from '../../lib/native'
import { buildFolder } from '../support/build-folder'

const root = path.join(__dirname, '..', '..', '..')
const library = path.join(buildFolder, 'ddpm_cuda.so')

/** Opens 'cuda', then 'auto', then samples on what that gave. */
const script = `
const { DDPM, Device } = require(${JSON.stringify(path.join(root, 'dist', 'lib', 'index.js'))})
const attempt = (name) => {
  try { return { device: Device.open(name).name } } catch (e) { return { code: e.code, kind: e.name, message: e.message } }
}
const result = { cuda: attempt('cuda'), again: attempt('cuda'), second: attempt('cuda:1'), auto: attempt('auto') }
const ddpm = new DDPM({
  unetConfig: { imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, numResBlocks: 1, attentionResolutions: [], channelMult: [1] },
  timesteps: 4, imageSize: 8, channels: 1, seed: 1,
})
ddpm.sample({ batchSize: 1 }).then((x) => x.data()).then((data) => {
  console.log(JSON.stringify({ ...result, device: ddpm.device.name, pixels: data.length }))
})
`

interface Attempt {
  device?: string
  code?: string
  kind?: string
  message?: string
}
interface Outcome {
  cuda: Attempt
  again: Attempt
  second: Attempt
  auto: Attempt
  device: string
  pixels: number
}

function outcome(env: NodeJS.ProcessEnv): Outcome & { stderr: string } {
  const { DDPM_DEBUG: _, ...rest } = process.env
  const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', env: { ...rest, ...env } })
  assert.equal(child.status, 0, child.stderr)
  return { ...JSON.parse(child.stdout), stderr: child.stderr }
}

function checkRefused(result: Outcome & { stderr: string }, why: RegExp): void {
  for (const attempt of [result.cuda, result.again, result.second]) {
    assert.equal(attempt.code, 'device-unavailable', JSON.stringify(attempt))
    assert.equal(attempt.kind, 'DiffusionError')
    assert.match(attempt.message!, why)
  }
  assert.deepEqual(result.auto, { device: 'cpu' })
  assert.deepEqual([result.device, result.pixels], ['cpu', 64])
  assert.equal(result.stderr, '')
}

describe('without a CUDA library', () => {
  it("'cuda' says where it was looked for and how it is built, 'auto' is the CPU, nothing is printed", function () {
    if (existsSync(library)) {
      console.log('    Not tested: there is a CUDA library')
      this.skip()
    }
    checkRefused(outcome({}), /there is no .*ddpm_cuda\.so; `npm run build:cuda`/)
    const { stderr } = outcome({ DDPM_DEBUG: 'device' })
    assert.match(stderr, /^ddpm-native: device 'auto' is cpu, .*; no CUDA: .*there is no .*ddpm_cuda\.so/)
  })
})

describe('the CUDA library', () => {
  let folder: string
  before(function () {
    if (!existsSync(library)) {
      console.log('    Not tested: there is no CUDA library; npm run build:cuda builds it')
      this.skip()
    }
    try {
      native.openDevice('cuda', 0, 0).close()
    } catch (error) {
      // Built before a change of kernels/backend.h.
      if (/does not serve version/.test((error as Error).message)) {
        console.log(`    Not tested: ${(error as Error).message}; npm run build:cuda`)
        this.skip()
      }
    }
    folder = mkdtempSync(path.join(tmpdir(), 'ddpm-driver-'))
  })
  after(() => {
    if (folder) rmSync(folder, { recursive: true })
  })

  it('needs no driver and no CUDA library to be loaded', function () {
    const { stdout, status } = spawnSync('readelf', ['-d', library], { encoding: 'utf8' })
    if (status !== 0) {
      console.log('    Not tested: there is no readelf')
      this.skip()
    }
    const needed = [...stdout.matchAll(/\(NEEDED\)\s+Shared library: \[(.*)\]/g)].map(([, name]) => name)
    assert.ok(needed.includes('libc.so.6'), stdout)
    for (const name of needed) assert.doesNotMatch(name, /cuda|cudart|nv|cudnn/, name)
    assert.doesNotMatch(stdout, /RUNPATH|RPATH/)
  })

  it('is offered as a backend', () => {
    assert.ok(native.backends().includes('cuda'))
  })

  it("without a driver: 'cuda' says so, 'auto' is the CPU, nothing is printed", function () {
    if (spawnSync('sh', ['-c', 'ldconfig -p | grep -q libcuda.so.1']).status === 0) {
      console.log('    Not tested: there is a driver')
      this.skip()
    }
    checkRefused(outcome({}), /no device cuda:[01]: no NVIDIA driver: libcuda\.so\.1/)
    assert.match(outcome({ DDPM_DEBUG: 'device' }).stderr, /'auto' is cpu, .*; no CUDA: .*no NVIDIA driver/)
  })

  /** A process with a libcuda.so.1 of ours before any other. */
  function withDriver(this: Mocha.Context, mode: string, env: NodeJS.ProcessEnv = {}): Outcome & { stderr: string } {
    const driver = path.join(folder, 'libcuda.so.1')
    if (!existsSync(driver)) {
      const source = path.join(root, 'test', 'native', 'fake-driver.c')
      const compiled = spawnSync('cc', ['-shared', '-fPIC', '-o', driver, source], { encoding: 'utf8' })
      if (compiled.error) {
        console.log('    Not tested: there is no C compiler')
        this.skip()
      }
      assert.equal(compiled.status, 0, compiled.stderr)
    }
    return outcome({ LD_LIBRARY_PATH: folder, FAKE_DRIVER: mode, ...env })
  }

  it('names the versions where the driver is too old', function () {
    const why = /the NVIDIA driver .*is too old: it supports CUDA 12\.2, this library needs CUDA 1[2-9]\.0/
    checkRefused(withDriver.call(this, 'old'), why)
  })

  it('says where the driver shows no GPU, and what CUDA_VISIBLE_DEVICES is', function () {
    checkRefused(withDriver.call(this, 'no-device'), /the NVIDIA driver shows no GPU/)
    checkRefused(withDriver.call(this, 'no-device', { CUDA_VISIBLE_DEVICES: '3' }), /\(CUDA_VISIBLE_DEVICES is "3"\)/)
  })

  it('passes on what the driver says', function () {
    checkRefused(withDriver.call(this, 'broken'), /cudaGetDeviceCount failed, cuda\w+: \w+/)
  })

  it('says where a file of that name is none, or serves another version of the interface', function () {
    // A copy of the addon with another file beside it.
    const beside = path.join(folder, 'build', 'Release')
    const code = `
      require('node:fs').mkdirSync(${JSON.stringify(beside)}, { recursive: true })
      require('node:fs').copyFileSync(${JSON.stringify(path.join(buildFolder, 'ddpm_native.node'))}, ${JSON.stringify(path.join(beside, 'ddpm_native.node'))})
      require('node:fs').copyFileSync(process.argv[1], ${JSON.stringify(path.join(beside, 'ddpm_cuda.so'))})
      try { require(${JSON.stringify(path.join(beside, 'ddpm_native.node'))}).openDevice('cuda', 0, 0) } catch (e) { console.log(e.code, e.message) }`
    const said = (file: string) => spawnSync(process.execPath, ['-e', code, file], { encoding: 'utf8' }).stdout
    assert.match(
      said(path.join(root, 'package.json')),
      /^device-unavailable the cuda backend is not available: .*ddpm_cuda\.so/,
    )
    const other = path.join(folder, 'other.so')
    const built = spawnSync('cc', ['-shared', '-o', other, '-x', 'c', '/dev/null'], { encoding: 'utf8' })
    if (built.error) this.skip()
    assert.match(said(other), /does not serve version \d+ of the interface/)
  })
})
