// npm run gpu: everything that needs a GPU, part by part: smoke test, benchmark, tests, compute-sanitizer. Each part has a deadline
// and a log of its own in OUT/gpu-logs; one that fails or hangs does not stop the next. Writes OUT/<date>-gpu-run.md after each
// part. Options: --quick (8 minutes at most), --only smoke,tests, --device cuda, --out bench/results. It needs node and what a build
// left behind (dist, build/Release, node_modules), not npm: `node scripts/gpu.mjs --quick`.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { gpuParts } from './gpu/parts.mjs'
import { gpuReport } from './gpu/report.mjs'
import { isGood, runParts } from './gpu/run-parts.mjs'

const root = path.join(import.meta.dirname, '..')
const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    out: { type: 'string', default: path.join(root, 'bench', 'results') },
  },
})
const parts = gpuParts(values)
const names = parts.map(({ name }) => name)
const wanted = values.only?.split(',') ?? parts.filter(({ onRequest }) => !onRequest).map(({ name }) => name)
const unknown = wanted.find((name) => !names.includes(name))
if (unknown !== undefined) {
  console.error(`gpu: --only takes ${names.join(', ')}, not '${unknown}'`)
  process.exit(2)
}

const stop = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(name, () => stop.abort())

const date = new Date().toISOString()
const page = path.join(values.out, `${date.slice(0, 10)}-gpu-run.md`)
const command = `npm run gpu -- ${process.argv.slice(2).join(' ')}`.replace(/ -- $/, '')
const { results, absent } = await runParts(parts, {
  ...{ wanted, device: values.device, logs: path.join(values.out, 'gpu-logs'), cwd: root, signal: stop.signal },
  onPart(all, none) {
    const { name, outcome, why, seconds } = all.at(-1)
    const took = seconds === undefined ? '' : `, ${seconds.toFixed(0)} s`
    console.log(`${name}: ${outcome}${why ? ` (${why})` : ''}${took}`)
    if (!none) writeFileSync(page, gpuReport({ date, command, results: all }))
  },
})

if (absent) console.error(`gpu needs a GPU. ${results[0].log.trim()}`)
else console.log(`written: ${path.relative(process.cwd(), page)}`)
process.exit(results.every(isGood) ? 0 : 1)
