// What npm run bench:gpu makes of results; the measurements need a GPU.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { gpuState } from '../../bench/gpu/gpu-state'
import {
  bandwidthTable,
  difference,
  lastJson,
  type Report,
  type Row,
  table,
  toleranceOf,
  writeReport,
} from '../../bench/gpu/report'
import { peersOf, references } from '../../bench/gpu/workload'

const root = path.join(__dirname, '..', '..', '..')

const rows: Row[] = [
  {
    kind: 'sampling',
    batch: 16,
    peer: 'ours bf16',
    medianMs: 0.5,
    minMs: 0.45,
    difference: 0.002,
    reference: 'pytorch eager-fp32',
  },
  {
    kind: 'sampling',
    batch: 16,
    peer: 'pytorch eager-fp32',
    medianMs: 12.25,
    minMs: 12,
    version: '2.9',
    reference: 'pytorch eager-fp32',
  },
  { kind: 'sampling', batch: 16, peer: 'pytorch compiled-bf16', problem: 'no triton' },
]

describe('bench:gpu', () => {
  it('puts time, rate and difference of each peer in a line', () => {
    const [head, rule, first, second, third] = table(rows).split('\n')
    assert.match(
      head,
      /^\| workload +\| peer .* ms a step \| fastest \| steps\/s \| times ours \| difference \| +problem \|$/,
    )
    assert.match(rule, /^\|-+\|-+\|-+:\|/)
    assert.match(
      first,
      /^\| sampling step, batch 16 \| ours bf16 +\| +0\.500 \| +0\.450 \| +2000\.0 \| +1\.00 \| +2\.0e-3 \|/,
    )
    assert.match(second, /pytorch eager-fp32 +\| +12\.3 \| +12\.0 \| +81\.6 \| +24\.50 \| +reference \|/)
    assert.match(third, /compiled-bf16 \|( +\|){5} +no triton \|$/)
    for (const line of [rule, first, second, third]) assert.equal(line.length, head.length)
  })

  it('leaves torch.compile to a call of its own, with those that it is compared with', () => {
    const precisions = ['fp32', 'bf16']
    const usual = peersOf({ precisions, torch: true, compiled: false })
    assert.deepEqual(usual, ['ours fp32', 'ours bf16', 'pytorch eager-fp32', 'pytorch eager-bf16'])
    assert.deepEqual(peersOf({ precisions, torch: false, compiled: false }), ['ours fp32', 'ours bf16'])
    const compiled = peersOf({ precisions, torch: true, compiled: true })
    assert.deepEqual(compiled, ['ours bf16', 'pytorch eager-bf16', 'pytorch compiled-bf16'])
    // Each has somebody whose result its own is compared with.
    for (const peers of [usual, compiled]) assert.ok(references.some((peer) => peers.includes(peer)))
  })

  it('gives bandwidths as shares of that of a copy', () => {
    const text = bandwidthTable([
      { name: 'copy', gigabytesPerSecond: 3000 },
      { name: 'posterior step', gigabytesPerSecond: 2700 },
    ])
    assert.match(text, /posterior step \| 2700 \| +90 % \|/)
  })

  it('knows the clocks from nvidia-smi, or says that it does not', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-smi-'))
    try {
      const smi = path.join(folder, 'nvidia-smi')
      const answer = '580.65, P0, 1980 MHz, 1980 MHz, 3201 MHz, 120.00 W, 700.00 W, 41'
      writeFileSync(smi, `#!/bin/sh\ntest "$1" = --id=1 && echo '${answer}'\n`, { mode: 0o755 })
      assert.match(gpuState('cuda:1', smi), /^driver_version 580\.65, .*clocks\.mem 3201 MHz, .*temperature\.gpu 41$/)
      assert.equal(gpuState('cuda', smi), 'not known (nvidia-smi: exit code 1)')
      assert.match(gpuState('cuda', path.join(folder, 'none')), /not known \(.*ENOENT/)
      assert.match(gpuState('cpu', smi), /no GPU/)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('compares results, and does not take NaN for a small difference', () => {
    assert.equal(difference(Float32Array.of(1, 2.5), Float32Array.of(1, 2)), 0.25)
    const off = difference(Float32Array.of(Number.NaN), Float32Array.of(1))
    assert.ok(!(off <= toleranceOf('ours bf16')))
    assert.throws(() => difference(new Float32Array(2), new Float32Array(3)), /2 numbers, expected 3/)
    assert.throws(() => difference(new Float32Array(), new Float32Array()), /0 numbers/)
    assert.ok(toleranceOf('ours fp32') < toleranceOf('pytorch eager-bf16'))
  })

  it('reads the last line of JSON of a process, or says how it ended', () => {
    assert.deepEqual(lastJson('Compiling ...\n{"medianMs": 1}\n'), { medianMs: 1 })
    assert.deepEqual(lastJson('[1]\n{ not json\n'), [1])
    assert.throws(() => lastJson('{"error": "out of memory", "code": "out-of-memory"}'), /^Error: out of memory$/)
    assert.throws(() => lastJson('Traceback\nModuleNotFoundError: torch'), /ModuleNotFoundError: torch/)
    assert.throws(() => lastJson(''), /printed nothing/)
  })

  it('writes a page with command, device and date, and JSON', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-report-'))
    try {
      const report: Report = {
        date: '2026-01-02T03:04:05.000Z',
        command: 'npm run bench:gpu -- --quick',
        device: { name: 'NVIDIA X100 (test)', isa: 'sm_90', memoryBytes: 2 ** 36, libraries: 'cuDNN 9.5.1 in /opt' },
        ...{ node: 'v20.0.0', seconds: 1, gpuBefore: 'clocks.sm 1980 MHz', gpuAfter: 'hot', rows, bandwidth: [] },
      }
      const files = writeReport(report, folder)
      assert.deepEqual(
        files.map((file) => path.basename(file)),
        ['2026-01-02-nvidia-x100-test-.json', '2026-01-02-nvidia-x100-test-.md'],
      )
      assert.deepEqual(JSON.parse(readFileSync(files[0], 'utf8')).rows[0], rows[0])
      assert.match(writeReport(report, folder, '-compiled')[1], /-test--compiled\.md$/)
      const page = readFileSync(files[1], 'utf8')
      for (const text of [
        'NVIDIA X100 (test) (sm_90), 2026-01-02',
        'npm run bench:gpu -- --quick',
        'PyTorch 2.9',
        'cuDNN 9.5.1 in /opt',
        'Before: clocks.sm 1980 MHz. After: hot.',
      ]) {
        assert.ok(page.includes(text), text)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  // A device that no machine has, so that the answer is the same where there is a GPU.
  it('says what is missing and fails without a GPU', () => {
    const args = [path.join(root, 'dist/bench/gpu/run.js'), '--device', 'cuda:99']
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    assert.equal(status, 1, stdout + stderr)
    assert.match(stderr, /^bench:gpu needs a GPU\. .*cuda/)
  })
})
