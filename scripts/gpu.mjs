// npm run gpu: everything that needs a GPU, in one go: tests, compute-sanitizer, benchmark. --quick is meant for ten minutes.
// --out DIR is where the benchmark's results go (default bench/results). It needs node and what a build left behind (dist,
// build/Release, node_modules), not npm: `node scripts/gpu.mjs --quick`.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { parseArgs } from 'node:util'

const root = path.join(import.meta.dirname, '..')
const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    device: { type: 'string', default: 'cuda' },
    out: { type: 'string', default: path.join(root, 'bench', 'results') },
  },
})

const common = ['--device', values.device, ...(values.quick ? ['--quick'] : [])]
const parts = [
  ['test:gpu', [path.join(root, 'scripts', 'test-gpu.mjs'), ...common]],
  ['bench:gpu', [path.join(root, 'dist', 'bench', 'gpu', 'run.js'), ...common, '--out', values.out]],
]
const results = parts.map(([name, args]) => {
  const start = Date.now()
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  return `${name}: ${status === 0 ? 'passed' : `failed (exit code ${status})`}, ${((Date.now() - start) / 1000).toFixed(0)} s`
})
console.log(`\n${results.join('\n')}`)
process.exit(results.every((line) => line.includes(': passed')) ? 0 : 1)
