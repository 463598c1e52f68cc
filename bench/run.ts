/**
 * npm run bench [-- filter ...]: every case whose name contains one of the filters, each in a process of its own, with the
 * machine's measured FMA peak beside it. Options: --seconds S per case (default 3), --json.
 */
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { cases } from './cases'
import type { Result } from './harness'

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '3' }, json: { type: 'boolean', default: false } },
  allowPositionals: true,
})

function child(...args: string[]): string {
  return execFileSync(process.execPath, [path.join(__dirname, 'one.js'), ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

interface Machine {
  readonly device: string
  readonly isa: string
  readonly threads: number
  readonly peakGflops: number
}

const machine: Machine = JSON.parse(child('machine'))
if (values.json) console.log(JSON.stringify(machine))
else {
  const { device, isa, threads, peakGflops } = machine
  console.log(`${device}, ${isa}, ${threads} threads, FMA peak ${peakGflops.toFixed(0)} GFLOP/s\n`)
  console.log(
    `${'case'.padEnd(46)}${'median'.padStart(11)}${'items/s'.padStart(10)}${'GFLOP/s'.padStart(9)}${'of peak'.padStart(9)}${'memory'.padStart(11)}`,
  )
}

for (const { name } of cases) {
  if (positionals.length > 0 && !positionals.some((filter) => name.includes(filter))) continue
  const result: Result = JSON.parse(child(name, values.seconds))
  if (values.json) {
    console.log(JSON.stringify(result))
    continue
  }
  const seconds = result.medianMs / 1000
  const gflops = result.flops === undefined ? undefined : result.flops / seconds / 1e9
  console.log(
    name.padEnd(46) +
      `${result.medianMs.toFixed(result.medianMs < 10 ? 3 : 1)} ms`.padStart(11) +
      (result.items === undefined ? '' : (result.items / seconds).toFixed(1)).padStart(10) +
      (gflops === undefined ? '' : gflops.toFixed(1)).padStart(9) +
      (gflops === undefined ? '' : `${((100 * gflops) / machine.peakGflops).toFixed(0)} %`).padStart(9) +
      (result.memoryBytes === undefined ? '' : `${(result.memoryBytes / 2 ** 20).toFixed(0)} MiB`).padStart(11),
  )
}
