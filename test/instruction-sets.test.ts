// The CPU's op tests once more for each other instruction set that this machine has: only one of them is chosen in a process.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { Device } from '../lib/device'

const root = path.join(__dirname, '..', '..')
const mocha = path.join(path.dirname(require.resolve('mocha/package.json')), 'bin', 'mocha.js')

function run(isa: string, args: readonly string[]): { status: number | null; output: string } {
  const env = { ...process.env, DDPM_CPU_ISA: isa, DDPM_TEST_DEVICE: 'cpu' }
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' })
  return { status, output: stdout + stderr }
}

describe('instruction sets', () => {
  const current = Device.open('cpu').info().isa
  for (const isa of ['portable', 'avx2', 'avx512']) {
    it(isa, async function () {
      const device = path.join(__dirname, '..', 'lib', 'device.js')
      const probe = `require(${JSON.stringify(device)}).Device.open('cpu').native.close()`
      if (isa === current || run(isa, ['-e', probe]).status !== 0) return this.skip()
      const listed = path.join(root, 'scripts', 'gpu', 'test-files.mjs')
      const { opTests } = await import(pathToFileURL(listed).href)
      const options = ['--no-config', '--reporter', 'dot', '--timeout', '120000']
      const { status, output } = run(isa, [mocha, ...options, ...opTests])
      if (status !== 0) throw new Error(output.slice(-4000))
    })
  }
})
