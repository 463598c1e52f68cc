// What the CPU computes in precision bf16, with each implementation of its products: one is chosen in a process (DDPM_CPU_BF16).
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { Device } from '../lib/device'

const root = path.join(__dirname, '..', '..')
const mocha = path.join(path.dirname(require.resolve('mocha/package.json')), 'bin', 'mocha.js')

function run(kernel: string, args: readonly string[]): { status: number | null; output: string } {
  const env = { ...process.env, DDPM_CPU_BF16: kernel, DDPM_TEST_DEVICE: 'cpu' }
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' })
  return { status, output: stdout + stderr }
}

/** Of an implementation that the processor has not, or that this build is without. */
const refuses = /DDPM_CPU_BF16=\S+: (this machine has no|expected one of).*/

function skip(context: Mocha.Context, output: string): void {
  console.log(`      Not tested: ${refuses.exec(output)?.[0]}`)
  context.skip()
}

const compiled = (...names: string[]) => names.map((name) => path.join('dist', 'test', `${name}.test.js`))
const options = ['--no-config', '--reporter', 'dot', '--timeout', '120000']

describe('products of bf16', () => {
  const own = Device.open('cpu').info().bf16
  const device = path.join(__dirname, '..', 'lib', 'device.js')
  const open = `require(${JSON.stringify(device)}).Device.open('cpu').native.close()`

  for (const kernel of ['portable', 'amx-emulated', 'avx512bf16', 'amx']) {
    it(kernel, function () {
      const { status, output } = run(kernel, ['-e', open])
      if (status !== 0 && refuses.test(output)) return skip(this, output)
      // What this process has is tested by these files themselves; networks in the arithmetic of one of the others.
      if (kernel === own) return
      const files = compiled('ops/bf16', ...(kernel === 'portable' ? ['nn/unet', 'diffusion/mixed'] : []))
      const tested = run(kernel, [mocha, ...options, '--grep', 'bf16', ...files])
      if (tested.status !== 0) throw new Error(tested.output.slice(-4000))
    })
  }

  // An avx512bf16 adds in another order.
  for (const kernel of ['amx-emulated', 'amx']) {
    it(`${kernel} computes the same bits as portable`, function () {
      const script = path.join('dist', 'test', 'support', 'bf16-outputs.js')
      const { status, output } = run(kernel, [script])
      if (status !== 0 && refuses.test(output)) return skip(this, output)
      const hashes = JSON.parse(output)
      assert.deepEqual(hashes, JSON.parse(run('portable', [script]).output))
      assert.ok(Object.keys(hashes).length > 40 && new Set(Object.values(hashes)).size > 40)
    })
  }

  it('none, or one that is not known, where DDPM_CPU_BF16 says so', () => {
    const off = run('off', [mocha, ...options, ...compiled('ops/bf16')])
    assert.match(off.output, /1 passing/)
    const wrong = run('avx', ['-e', open])
    assert.match(wrong.output, /DDPM_CPU_BF16=avx: expected one of .*portable, amx-emulated, off/)
  })
})
