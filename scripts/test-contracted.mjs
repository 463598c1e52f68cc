// npm run test:contracted: the tests of one device on cuda-host-contracted, the CUDA kernels on the CPU with multiply-adds and sums
// of tensor cores as GPUs round them. What asks for more than was promised fails here, before a GPU meets it.
// Options: --only ops (or nn, diffusion, native, several with commas), --grep TITLE, --quick: without what takes longest there
// and says least of rounding: chains and trainings of many steps, of which mixed.test takes the first in 16 bits
// (DDPM_TEST_QUICK), whole pipelines, and what a process, a program, a recording, a file, a state or a resumed run does whatever
// the numbers.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { gpuTests } from './gpu/test-files.mjs'

const root = path.join(import.meta.dirname, '..')
const require = createRequire(import.meta.url)
const device = 'cuda-host-contracted'
const long = [
  'autoencoder',
  'native',
  'train',
  'evaluate/features-file',
  'nn/fill-bank',
  'stages/first-stage',
  ...[
    ...['bits-per-dim', 'class-conditional', 'classifier', 'continuous', 'gaussian', 'guidance', 'latent'],
    ...['learned-variance', 'losses', 'lr-scheduler', 'objectives', 'queued', 'repaint', 'same-image', 'samplers'],
    ...['sampling', 'schedulers', 'self-condition', 'sigma-samplers', 'state', 'told-times'],
    ...['prepared', 'sigma-schedulers', 'solver-schedulers', 'thresholding', 'training'],
  ].map((name) => `diffusion/${name}`),
]
const isLong = (file) =>
  long.some((name) => file === `dist/test/${name}.test.js` || file.startsWith(`dist/test/${name}/`))
const { values } = parseArgs({
  options: { only: { type: 'string' }, grep: { type: 'string' }, quick: { type: 'boolean', default: false } },
})

const folderOf = (file) => path.basename(path.dirname(file))
const all = [...gpuTests, 'dist/test/ops/conv2d-tiles.test.js']
const wanted = values.only?.split(',')
const unknown = wanted?.find((name) => !all.some((file) => folderOf(file) === name))
if (unknown !== undefined) {
  console.error(`test:contracted: --only takes ${[...new Set(all.map(folderOf))].join(', ')}, not '${unknown}'`)
  process.exit(2)
}

const { Device } = require(path.join(root, 'dist', 'lib', 'device.js'))
try {
  Device.open(device)
} catch (error) {
  console.log(`test:contracted: nothing was tested: ${error.message}`)
  process.exit(process.arch === 'x64' && /no fused multiply-add/.test(error.message) ? 0 : 1)
}

const files = all
  .filter((file) => !wanted || wanted.includes(folderOf(file)))
  .filter((file) => !values.quick || !isLong(file))
const grep = values.grep === undefined ? [] : ['--grep', values.grep]
// Without .mocharc.json: it would add its own spec, which is every test there is.
// The emulated GPU computes on one thread of each process.
const parallel = ['--parallel', '--jobs', String(os.availableParallelism())]
const args = ['--no-config', '--reporter', 'dot', '--timeout', '600000', ...parallel, ...grep, ...files]
console.log(`test:contracted: ${files.length} files on ${device}${values.quick ? `, not ${long.join(', ')}` : ''}`)
const { status } = spawnSync(process.execPath, [require.resolve('mocha/bin/mocha.js'), ...args], {
  cwd: root,
  env: { ...process.env, DDPM_TEST_DEVICE: device, ...(values.quick ? { DDPM_TEST_QUICK: '1' } : {}) },
  stdio: 'inherit',
})
process.exit(status ?? 1)
