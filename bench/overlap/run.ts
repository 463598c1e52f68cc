/**
 * node dist/bench/overlap/run.js: how much of the exchange of gradients is hidden behind the backward pass (rank.ts), by two ranks of one
 * thread that mpirun starts, behind a network that is slow on purpose and takes no processor's time (test/slow-network). `npm test` builds it.
 * Options: --mbits M of the network, millions of bits a second each way (1000), --batch N of a rank (16), --rounds R (5).
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    mbits: { type: 'string', default: '1000' },
    batch: { type: 'string', default: '16' },
    rounds: { type: 'string', default: '5' },
  },
})
for (const [name, text] of Object.entries(values)) {
  if (/^[1-9]\d*$/.test(text)) continue
  console.error(`bench/overlap: --${name} takes an integer of at least 1, not '${text}'`)
  process.exit(2)
}

const built = path.join(__dirname, '..', '..', '..', 'build', 'Release')
const slow = path.join(built, 'slow-network', 'ddpm_mpi.so')
const [addon, real] = ['ddpm_native.node', 'ddpm_mpi.so'].map((name) => path.join(built, name))
for (const file of [addon, real, slow]) {
  if (existsSync(file)) continue
  console.error(`bench/overlap: there is no ${file}: npm run build, npm run build:mpi`)
  process.exit(2)
}

// An addon with the slow library beside it.
const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-overlap-'))
try {
  const release = path.join(folder, 'build', 'Release')
  mkdirSync(release, { recursive: true })
  copyFileSync(addon, path.join(release, 'ddpm_native.node'))
  copyFileSync(slow, path.join(release, 'ddpm_mpi.so'))
  const rank = [path.join(__dirname, 'rank.js'), '--batch', values.batch, '--rounds', values.rounds]
  const { status } = spawnSync('mpirun', ['-n', '2', process.execPath, ...rank], {
    stdio: 'inherit',
    env: {
      ...process.env,
      DDPM_NUM_THREADS: '1',
      DDPM_NATIVE_PREBUILD: folder,
      DDPM_SLOW_MPI: real,
      DDPM_SLOW_MBITS: values.mbits,
    },
  })
  process.exitCode = status ?? 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
