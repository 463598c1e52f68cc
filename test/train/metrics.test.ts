import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DiffusionError } from '../../lib/errors'
import { MetricsLog, type StepMetrics } from '../../lib/train/metrics'
import { temporaryFolder } from './support'

const metricsOf = (step: number): StepMetrics => ({
  step,
  loss: 0.5,
  loss_simple: 0.5,
  loss_vlb: 0.001,
  gradNorm: null,
  lr: 1e-4,
  imagesPerSecond: 10,
  time: '2026-01-01T00:00:00.000Z',
})
const lineOf = (step: number) => `${JSON.stringify(metricsOf(step))}\n`

describe('metrics.jsonl', () => {
  const folder = temporaryFolder()
  const file = path.join(folder, 'metrics.jsonl')
  /** What is left of `text` for a training that goes on from `step`, after a line is written. */
  const reopened = (text: string, step: number) => {
    writeFileSync(file, text)
    const log = MetricsLog.open(file, step)
    log.write(metricsOf(step + 1))
    log.close()
    const now = readFileSync(file, 'utf8')
    assert.ok(now.endsWith(lineOf(step + 1)))
    return now.slice(0, -lineOf(step + 1).length)
  }

  it('is cut off behind the step that a training goes on from', () => {
    const three = lineOf(1) + lineOf(2) + lineOf(3)
    assert.equal(reopened(three, 2), lineOf(1) + lineOf(2))
    assert.equal(reopened(three, 0), '')
    assert.equal(reopened(three, 9), three)
    assert.equal(reopened(`${three}{"step":4,"lo`, 4), three)
    assert.equal(reopened(`${three}${'\0'.repeat(100)}`, 4), three)
    assert.equal(reopened('', 0), '')
  })

  it('keeps what it does not understand where lines of the training follow', () => {
    const odd = `${lineOf(1)}{"step":2,"lo\n{"step": 2, "mine": true}\n${lineOf(2)}`
    assert.equal(reopened(odd + lineOf(3), 2), odd)
    const long = `${lineOf(1)}${'x'.repeat(3_000_000)}\n${lineOf(2)}`
    assert.equal(reopened(long + lineOf(3), 2), long)
  })

  it('ends a line that has lost its end', () => {
    assert.equal(reopened((lineOf(1) + lineOf(2)).trimEnd(), 2), lineOf(1) + lineOf(2))
  })

  it('is the same over many chunks', () => {
    const lines = Array.from({ length: 30_000 }, (_, i) => lineOf(i + 1)).join('')
    const kept = lines.slice(0, lines.indexOf('{"step":28001,'))
    assert.equal(reopened(lines, 28_000), kept)
  })

  it('has whole lines only, and the others later, where writing fails', () => {
    const script = `
      const { MetricsLog } = require(${JSON.stringify(require.resolve('../../lib/train/metrics'))})
      const log = MetricsLog.open(${JSON.stringify(file)}, 0)
      let step = 0
      try { for (;;) log.write(${JSON.stringify(metricsOf(0))}, step++) } catch ({ code, message }) { console.log(code, message) }`
    writeFileSync(file, '')
    const limited = spawnSync('bash', ['-c', 'ulimit -f 4; exec "$0" -e "$1"', process.execPath, script])
    assert.match(String(limited.stdout), /^io cannot write .*metrics\.jsonl: the file would be larger than the limit/)
    const { size } = statSync(file)
    assert.ok(size > 3000 && size % lineOf(0).length === 0, `${size} bytes`)
  })

  it('is no pipe and no device', () => {
    const pipe = path.join(folder, 'pipe')
    execFileSync('mkfifo', [pipe])
    for (const other of [pipe, '/dev/full'])
      assert.throws(
        () => MetricsLog.open(other, 1),
        (e) => e instanceof DiffusionError && /not a regular file/.test(e.message),
      )
  })
})
