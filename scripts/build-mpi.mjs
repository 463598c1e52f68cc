// npm run build:mpi: compiles the library of collectives by MPI, build/Release/ddpm_mpi.so, against the MPI that CMake finds (mpicc).
// With --if-mpi, as npm install calls it: where there is one; elsewhere nothing.
import { spawnSync } from 'node:child_process'

const optional = process.argv.includes('--if-mpi')
const { error } = spawnSync('mpicc', ['--version'], { stdio: 'ignore' })
if (error && optional) process.exit(0)
const args = ['build', '--log-level', 'error', '--parallel', '2', '--target', 'ddpm_mpi', '--CDDDPM_MPI=REQUIRED']
const built = spawnSync('cmake-js', args, { stdio: 'inherit' })
if (built.error) console.error(`cmake-js: ${built.error.message}`)
if (built.status === 0) process.exit(0)
console.error('The library of collectives by MPI is not built.')
process.exit(optional ? 0 : 1)
