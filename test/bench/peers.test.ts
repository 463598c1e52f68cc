// What npm run bench:peers makes of results; --only sd with a small network, where ONNX Runtime is installed.
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { differenceOf, median } from '../../bench/peers/compare'
import { processMemory } from '../../bench/peers/memory'
import { loadOrt } from '../../bench/peers/ort'
import { type Report, rowsTable, writeReport } from '../../bench/peers/stable-diffusion/report'
import { compareStableDiffusion } from '../../bench/peers/stable-diffusion/run'

describe('bench:peers', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ddpm-peers-test-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))
  const file = (name: string, ...numbers: number[]) => {
    writeFileSync(path.join(folder, name), new Uint8Array(Float32Array.from(numbers).buffer))
    return path.join(folder, name)
  }

  it('compares results number by number', () => {
    const ours = file('ours', 1, -2, 3)
    assert.deepEqual(differenceOf(ours, file('close', 1, -2.5, 3.25)), { largest: 0.5, of: 3.25 })
    assert.ok(Number.isNaN(differenceOf(ours, file('nan', NaN, -2, 3)).largest))
    assert.ok(Number.isNaN(differenceOf(ours, file('later', 1, NaN, 4)).largest))
    assert.throws(() => differenceOf(ours, file('short', 1, -2)), /short: 2 numbers, not 3/)
    assert.throws(() => differenceOf(file('none'), file('none')), /0 numbers/)
    assert.deepEqual([median([3, 1, 2]), median([4, 1, 2, 3])], [2, 2.5])
  })

  it('sees what this process takes, and has taken', () => {
    const before = processMemory()
    let big: Uint8Array | undefined = new Uint8Array(2 ** 27).fill(1)
    const during = processMemory()
    assert.ok(during.residentBytes > before.residentBytes + 2 ** 26, JSON.stringify([before, during, big.length]))
    assert.ok(during.peakBytes >= during.residentBytes)
    big = undefined
  })

  const row = {
    ...{ part: 'unet' as const, parameters: 859.5e6, openMs: 20_000, firstMs: 12_345, medianMs: 3400, minMs: 3300 },
    ...{ mediansMs: [3400], residentBytes: 5 * 2 ** 30, peakBytes: 6 * 2 ** 30, gflops: 227, ratio: 1 },
  }
  const report: Report = {
    ...{ date: '2026-11-30T17:00:00.000Z', cpu: 'A CPU', memoryBytes: 2 ** 34, node: 'v20', loadAverage: 0.1 },
    ...{
      threads: 2,
      seconds: 5,
      rounds: 1,
      machine: { isa: 'avx512', peakGflops: 454 },
      small: false,
      weightFormat: 'fp32',
      precision: 'fp32',
    },
    rows: [
      { ...row, peer: 'ours' },
      { ...row, peer: 'onnxruntime 1.30.0', medianMs: 6800, ratio: 2, difference: 1.25e-5, largestValue: 4.5 },
    ],
  }

  it('puts times, memory and difference of each peer in a line', () => {
    const [head, rule, ours, theirs] = rowsTable(report, report).split('\n')
    assert.match(head, /peer +\| +open \| +first \| +step \| .* \| +resident \| +peak \|$/)
    assert.match(
      ours,
      /^\| unet +\| ours +\| +20\.00 s \| +12\.35 s \| +3\.40 s \| +3\.30 s \| +227 \| +50 % \| +1\.00 \| +\|/,
    )
    assert.match(theirs, /\| +2\.00 \| +1\.3e-5 \| +5120 MiB \| +6144 MiB \|$/)
    for (const line of [rule, ours, theirs]) assert.equal(line.length, head.length)
  })

  it('writes a page that says command, machine and date', () => {
    const [json, page] = writeReport(report, folder)
    assert.deepEqual(JSON.parse(readFileSync(json, 'utf8')), report)
    assert.equal(path.basename(page), '2026-11-30-stable-diffusion-peers-a-cpu.md')
    const text = readFileSync(page, 'utf8')
    assert.match(text, /^# .*A CPU, 2026-11-30\n/)
    assert.match(text, /`npm run bench:peers -- --only sd --seconds 5 --rounds 1 --threads 2`/)
    const [, narrow] = writeReport({ ...report, weightFormat: 'fp16' }, folder)
    assert.equal(path.basename(narrow), '2026-11-30-stable-diffusion-peers-fp16-a-cpu.md')
    assert.match(readFileSync(narrow, 'utf8'), /--only sd --weight-format fp16 --seconds.*ours held in fp16/s)
    const [, rounded] = writeReport({ ...report, precision: 'bf16' }, folder)
    assert.equal(path.basename(rounded), '2026-11-30-stable-diffusion-peers-in-bf16-a-cpu.md')
    assert.match(readFileSync(rounded, 'utf8'), /--only sd --precision bf16 --seconds.*ours multiplied in bf16/s)
    assert.match(text, /860 M parameters.*FMA peak measured in the same run: 454 GFLOP\/s.* 4\.50 \(unet\)/s)
  })

  it('--only sd: the same outputs of a small network, and nothing is left', async function () {
    if (!loadOrt()) {
      console.log('      skipped: onnxruntime-node is not installed; npm run bench:peers -- --install does it')
      return this.skip()
    }
    this.timeout(300_000)
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith('ddpm-peers-sd-'))
    const { rows } = await compareStableDiffusion({ small: true, seconds: 0, rounds: 1, threads: 1 }, () => {})
    assert.deepEqual(
      rows.map(({ part, peer }) => `${part} ${peer.split(' ')[0]}`),
      ['unet ours', 'unet onnxruntime', 'decoder ours', 'decoder onnxruntime'],
    )
    for (const { peer, difference, largestValue, ...r } of rows) {
      for (const bytes of [r.residentBytes, r.peakBytes]) assert.ok(bytes > 2 ** 25 && bytes < 2 ** 31, `${bytes}`)
      for (const ms of [r.openMs, r.firstMs, r.medianMs, r.minMs]) assert.ok(ms > 0)
      assert.ok(r.parameters > 1e5 && r.gflops > 0)
      if (peer !== 'ours') assert.ok(difference! > 0 && difference! < 1e-4 * largestValue!, `${difference}`)
    }
    assert.deepEqual(
      readdirSync(tmpdir()).filter((name) => name.startsWith('ddpm-peers-sd-')),
      before,
    )
  })
})
