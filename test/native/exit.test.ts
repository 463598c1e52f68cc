/** The end of a process in the middle of a step is as clean as any: the exit code asked for, no signal, no word on stderr. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { testedBackends } from '../support/devices'

const script = path.join(__dirname, 'exit-child.js')

function end(device: string, work: string, way: string, delay: number): void {
  const args = [script, device, work, way, String(delay)]
  const { status, signal, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 })
  assert.deepEqual({ status, signal, stderr }, { status: 7, signal: null, stderr: '' }, args.slice(1).join(' '))
}

const devices = ['reference', ...testedBackends]
const works = ['train', 'sample', 'compile', 'copy']

// `npm run attack -- --only exits` has every way at work of every kind, at any moment.
describe('a process ends cleanly', () => {
  for (const [d, device] of devices.entries()) {
    it(`4 times of 4 in the middle of a step on ${device}`, () => {
      for (const [w, work] of works.entries()) end(device, work, 'exit', 20 + 74 * ((d + w) % 3))
    })
  }

  const ways = [
    'reallyExit',
    'exit in a handler of exit',
    'exit in a handler of a signal',
    'exit after a close',
    'work in a handler of exit',
    'exit in a microtask',
    'an exception',
    'exit with a worker at work',
  ]
  for (const [i, way] of ways.entries()) {
    it(`by ${way}`, () => {
      for (const [d, device] of testedBackends.entries()) end(device, (i + d) % 2 === 0 ? 'train' : 'copy', way, 100)
    })
  }
})
