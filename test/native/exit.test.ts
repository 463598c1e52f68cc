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

describe('a process ends cleanly', () => {
  for (const device of ['reference', ...testedBackends]) {
    it(`12 times of 12 in the middle of a step on ${device}`, () => {
      for (let i = 0; i < 3; i++) {
        for (const work of ['train', 'sample', 'compile', 'copy']) end(device, work, 'exit', 20 + 74 * i)
      }
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
  for (const way of ways) {
    it(`by ${way}`, () => {
      for (const device of testedBackends) for (const work of ['train', 'copy']) end(device, work, way, 100)
    })
  }
})
