// npm run check:cuda: compiles the CUDA library and fails when a kernel that kernels/cuda/hot-kernels.txt lists spills
// registers. Where there is no nvcc it says so and succeeds. --quick, as in CI: for the architectures that cuda-toolkit.mjs names,
// where DDPM_CUDA_ARCHS names none.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { findNvcc, quickArchitectures } from './cuda-toolkit.mjs'
import { hotKernels, parsePtxas, registerTable, spillsOf } from './ptxas-report.mjs'

const root = path.join(import.meta.dirname, '..')
const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })

function reports(folder) {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
    file.endsWith('.cu.o.ptxas'),
  )
  return files.flatMap((file) => parsePtxas(readFileSync(path.join(folder, file), 'utf8')))
}

const { nvcc, why } = findNvcc()
if (!nvcc) {
  console.log(`check:cuda: skipped, ${why}`)
  process.exit(0)
}
const env = values.quick ? { DDPM_CUDA_ARCHS: quickArchitectures.join(), ...process.env } : process.env
const build = spawnSync(process.execPath, [path.join(import.meta.dirname, 'build-cuda.mjs')], { stdio: 'inherit', env })
if (build.status !== 0) process.exit(build.status ?? 1)

const hot = hotKernels(readFileSync(path.join(root, 'kernels', 'cuda', 'hot-kernels.txt'), 'utf8'))
const entries = reports(path.join(root, 'build', 'cuda', 'CMakeFiles', 'ddpm_cuda_objects.dir'))
console.log(registerTable(hot, entries))
const problems = spillsOf(hot, entries)
for (const problem of problems) console.error(`check:cuda: ${problem}`)
if (problems.length > 0) process.exit(1)
console.log(`check:cuda: no spills in ${hot.length} hot kernels`)
