// npm run test:gpu: every op, the golden networks, sampling and training on a GPU, beside the reference; then the op tests
// under compute-sanitizer (memcheck and racecheck) where that is installed. Options: --quick (the sanitizer on fewer tests),
// --device cuda. Needs what a build left behind: build/Release and dist.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { findSanitizer, sanitizerSummary } from './sanitizer.mjs'

const root = path.join(import.meta.dirname, '..')
const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, device: { type: 'string', default: 'cuda' } },
})
const require = createRequire(import.meta.url)
const mocha = require.resolve('mocha/bin/mocha.js')
const env = { ...process.env, DDPM_TEST_DEVICE: values.device }

try {
  const { Device } = require(path.join(root, 'dist', 'lib', 'device.js'))
  const { name, isa, memoryBytes } = Device.open(values.device).info()
  console.log(`${name} (${isa}), ${(memoryBytes / 2 ** 30).toFixed(0)} GiB`)
} catch (error) {
  console.error(`test:gpu needs a GPU. ${error.message}`)
  process.exit(1)
}

const failures = []
function run(what, command, args) {
  console.log(`\n== ${what}`)
  const { status, signal } = spawnSync(command, args, { cwd: root, env, stdio: 'inherit' })
  if (status !== 0) failures.push(`${what}: ${signal ?? `exit code ${status}`}`)
}

const folders = ['ops', 'nn', 'native', 'diffusion'].map((name) => `dist/test/${name}/**/*.test.js`)
run('tests', process.execPath, [
  mocha,
  '--reporter',
  'dot',
  '--timeout',
  '600000',
  ...folders.flatMap((f) => ['--spec', f]),
])

const { sanitizer, why } = findSanitizer()
if (!sanitizer) console.log(`\ncompute-sanitizer: skipped, ${why}`)
else {
  const some = values.quick ? ['--grep', 'conv2d|groupNorm|attention|posteriorStep|adamw'] : []
  for (const tool of ['memcheck', 'racecheck']) {
    console.log(`\n== compute-sanitizer --tool ${tool}, op tests`)
    const options = ['--tool', tool, '--target-processes', 'all', '--error-exitcode', '86']
    const tests = [
      process.execPath,
      mocha,
      '--reporter',
      'dot',
      '--timeout',
      '0',
      '--spec',
      'dist/test/ops/**/*.test.js',
    ]
    const child = spawnSync(sanitizer, [...options, ...tests, ...some], {
      ...{ cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 28 },
    })
    const output = `${child.stdout}${child.stderr}`
    const { errors, text } = sanitizerSummary(output)
    console.log(text)
    if (child.status !== 0 || errors !== 0) {
      console.log(output.split('\n').slice(-60).join('\n'))
      failures.push(`${tool}: ${errors ?? 'unknown number of'} errors, exit code ${child.status}`)
    }
  }
}

console.log(failures.length === 0 ? '\ntest:gpu: all passed' : `\ntest:gpu: failed\n  ${failures.join('\n  ')}`)
process.exit(failures.length === 0 ? 0 : 1)
