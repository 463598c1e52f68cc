// npm run build:cuda: compiles the CUDA library, build/Release/ddpm_cuda.so, wherever nvcc is. DDPM_CUDA_ARCHS narrows the
// architectures: '90a', '80,89', or 'native' for the GPU that is here.
// With --if-gpu, as npm install calls it: for the GPU of this machine where there are both it and nvcc; elsewhere nothing.
// Else also the same library on a stand-in for the CUDA runtime, which tests run (test/fake-cudart).
import { spawnSync } from 'node:child_process'
import os from 'node:os'
import path from 'node:path'
import { cmakeArchitectures, findGpu, findNvcc, requestedArchitectures } from './cuda-toolkit.mjs'

const root = path.join(import.meta.dirname, '..')
const folder = path.join(root, 'build', 'cuda')
const optional = process.argv.includes('--if-gpu')

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' })
  if (error) console.error(`${command}: ${error.message}`)
  if (status !== 0) process.exit(status ?? 1)
}

/** What to build, or undefined when there is nothing to do. */
function plan() {
  const { nvcc, why } = findNvcc()
  if (!nvcc) {
    if (optional) return undefined
    console.error(`build:cuda: ${why}`)
    process.exit(1)
  }
  if (!optional) return { nvcc, architectures: requestedArchitectures(process.env.DDPM_CUDA_ARCHS) }
  const gpu = findGpu()
  if (gpu.architectures) return { nvcc, architectures: gpu.architectures }
  console.log(`The CUDA library is not built: ${gpu.why}. npm run build:cuda builds it for every GPU.`)
  return undefined
}

try {
  const planned = plan()
  if (planned) {
    const architectures = cmakeArchitectures(planned.architectures)
    console.log(`CUDA library for ${architectures.replaceAll(';', ', ')}, by ${planned.nvcc}`)
    run('cmake', [
      ...['-S', root, '-B', folder, '--log-level=WARNING'],
      ...['-DDDPM_CUDA=ON', '-DDDPM_TEST_BACKENDS=OFF', '-DCMAKE_BUILD_TYPE=Release'],
      `-DCMAKE_CUDA_COMPILER=${planned.nvcc}`,
      `-DDDPM_CUDA_ARCHS=${architectures}`,
      `-DCMAKE_CUDA_ARCHITECTURES=${architectures}`,
      `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(root, 'build', 'Release')}`,
    ])
    const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
    const targets = ['ddpm_cuda', ...(optional ? [] : ['ddpm_cuda_stand_in', 'fake_cudart_misused'])]
    run('cmake', ['--build', folder, '--parallel', jobs, '--target', ...targets])
  }
} catch (error) {
  console.error(`build:cuda: ${error.message}`)
  process.exit(1)
}
