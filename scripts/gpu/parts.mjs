// What a GPU is asked, in this order: what is worth most comes first, as a lent machine may be gone soon.
import { createRequire } from 'node:module'
import path from 'node:path'
import { findSanitizer, sanitizerSummary } from './compute-sanitizer.mjs'
import { gpuTests, opTests } from './test-files.mjs'

const root = path.join(import.meta.dirname, '..', '..')
const mocha = createRequire(import.meta.url).resolve('mocha/bin/mocha.js')
const built = (...names) => path.join(root, 'dist', ...names)

/** Deadlines in seconds; those of what --quick runs come to 8 minutes together. */
const deadlines = {
  smoke: { quick: 40, whole: 120 },
  bench: { quick: 170, whole: 1800 },
  tests: { quick: 130, whole: 1800 },
  memcheck: { quick: 70, whole: 3600 },
  racecheck: { quick: 70, whole: 3600 },
  compiled: { quick: 1800, whole: 3600 },
}

/** The kernels with shared memory and pipelines, which --quick gives to the sanitizer. */
const some = 'conv2d|groupNorm|attention|posteriorStep|adamw'

/** Without .mocharc.json: it would add its own spec, which is every test there is. */
const tests = (files, ...more) => [mocha, '--no-config', '--reporter', 'dot', '--timeout', '600000', ...more, ...files]

/** Each { name, seconds, command, args, env, accepts(log), onRequest }, or { name, missing }: why it can't run. */
export function gpuParts({ quick, device, out, sanitizer = findSanitizer() }) {
  const node = process.execPath
  const env = { DDPM_TEST_DEVICE: device }
  const seconds = (name) => deadlines[name][quick ? 'quick' : 'whole']
  const checked = (tool) => {
    if (!sanitizer.sanitizer) return { name: tool, missing: `there is no compute-sanitizer: ${sanitizer.why}` }
    const options = ['--tool', tool, '--target-processes', 'all', '--error-exitcode', '86']
    const args = [...options, node, ...tests(opTests, ...(quick ? ['--grep', some] : []))]
    const accepts = (log) => sanitizerSummary(log).errors === 0 // no summary: it did not get that far
    return { name: tool, seconds: seconds(tool), command: sanitizer.sanitizer, args, env, accepts }
  }
  const bench = (...more) => [built('bench', 'gpu', 'run.js'), '--device', device, '--out', out, ...more]
  return [
    { name: 'smoke', seconds: seconds('smoke'), command: node, args: [built('test', 'gpu', 'smoke.js'), device] },
    {
      name: 'bench',
      seconds: seconds('bench'),
      command: node,
      args: bench(...(quick ? ['--quick'] : [])),
    },
    { name: 'tests', seconds: seconds('tests'), command: node, args: tests(gpuTests), env },
    checked('memcheck'),
    checked('racecheck'),
    // Last, as torch.compile takes minutes a shape; --quick has none for it.
    { name: 'compiled', seconds: seconds('compiled'), command: node, args: bench('--compiled'), onRequest: quick },
  ]
}
