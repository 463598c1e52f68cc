// npm run gpu: everything that needs a GPU, part by part: smoke test, benchmark, tests, compute-sanitizer. Each part has a deadline
// and a log of its own in OUT/gpu-logs; one that fails or hangs does not stop the next. Writes OUT/<date>-gpu-run.md after each
// part. Options: --quick (8 minutes at most), --only smoke,tests, --device cuda, --out bench/results. It needs node and what a build
// left behind (dist, build/Release, node_modules), not npm: `node scripts/gpu.mjs --quick`.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { gpuParts } from './gpu/parts.mjs'
import { gpuReport } from './gpu/report.mjs'
import { runPart } from './gpu/run-part.mjs'

const root = path.join(import.meta.dirname, '..')
const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    out: { type: 'string', default: path.join(root, 'bench', 'results') },
  },
})
/** The smoke test's exit code where there is no such device. */
const noSuchDevice = 3

const parts = gpuParts(values)
const names = parts.map(({ name }) => name)
const wanted = values.only?.split(',') ?? names
const unknown = wanted.find((name) => !names.includes(name))
if (unknown !== undefined) {
  console.error(`gpu: --only takes ${names.join(', ')}, not '${unknown}'`)
  process.exit(2)
}

const logs = path.join(values.out, 'gpu-logs')
mkdirSync(logs, { recursive: true })
const stop = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(name, () => stop.abort())

const date = new Date().toISOString()
const page = path.join(values.out, `${date.slice(0, 10)}-gpu-run.md`)
const command = `npm run gpu -- ${process.argv.slice(2).join(' ')}`.replace(/ -- $/, '')
const results = []
let absent = ''
for (const { name, missing, accepts, ...part } of parts) {
  const why = wanted.includes(name)
    ? stop.signal.aborted
      ? 'the run was ended'
      : (missing ?? absent)
    : 'not asked for'
  const log = path.join(logs, `${name}.log`)
  const result = why
    ? { name, outcome: 'not run', why, log: '' }
    : { name, ...(await runPart(part, { log, cwd: root, signal: stop.signal })), log: readLog(log) }
  if (result.outcome === 'passed' && accepts?.(result.log) === false) {
    Object.assign(result, { outcome: 'failed', why: 'it ended well, but not as it does when all is well' })
  }
  if (name === 'smoke' && result.exitCode === noSuchDevice) absent = `there is no ${values.device}`
  results.push(result)
  console.log(
    `${name}: ${result.outcome}${result.why ? ` (${result.why})` : ''}${why ? '' : `, ${result.seconds.toFixed(0)} s`}`,
  )
  if (!absent) writeFileSync(page, gpuReport({ date, command, results }))
}

function readLog(file) {
  return readFileSync(file, 'latin1')
}

if (absent) console.error(`gpu needs a GPU. ${results[0].log.trim()}`)
else console.log(`written: ${path.relative(process.cwd(), page)}`)
process.exit(results.every(({ outcome, why }) => outcome === 'passed' || why === 'not asked for') ? 0 : 1)
