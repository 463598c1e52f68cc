// What `npm run build:cuda` and `npm run check:cuda` decide.
import assert from 'node:assert/strict'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const root = path.join(__dirname, '..', '..', '..')
// biome-ignore lint/suspicious/noExplicitAny: the scripts have no types
const script = (name: string): Promise<any> => import(pathToFileURL(path.join(root, 'scripts', name)).href)

describe('build:cuda', () => {
  it('finds nvcc in CUDACXX, CUDA_HOME and PATH, or says where it looked', async () => {
    const { findNvcc } = await script('cuda-toolkit.mjs')
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-nvcc-'))
    try {
      const nvcc = path.join(folder, 'nvcc')
      writeFileSync(nvcc, '')
      chmodSync(nvcc, 0o755)
      assert.deepEqual(findNvcc({ PATH: `/nowhere${path.delimiter}${folder}` }), { nvcc })
      assert.deepEqual(findNvcc({ CUDACXX: nvcc, PATH: '' }), { nvcc })
      const nowhere = findNvcc({ PATH: '/nowhere' })
      assert.ok(nowhere.nvcc === '/usr/local/cuda/bin/nvcc' || /no nvcc in CUDACXX, CUDA_HOME, PATH/.test(nowhere.why))
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('asks nvidia-smi for the architecture only where there is a device', async () => {
    const { findGpu } = await script('cuda-toolkit.mjs')
    const unasked = () => assert.fail('asked')
    assert.match(findGpu(unasked, []).why, /no GPU/)
    assert.deepEqual(
      findGpu(() => '9.0\n8.6\n9.0\n', ['/dev/nvidia0']),
      { architectures: ['90a', '86'] },
    )
    const broken = () => {
      throw new Error('spawnSync nvidia-smi ENOENT')
    }
    assert.match(findGpu(broken, ['/dev/nvidia0']).why, /\/dev\/nvidia0 is there.*ENOENT/)
    assert.match(findGpu(() => 'N/A\n', ['/dev/dxg']).why, /N\/A/)
  })

  it('takes DDPM_CUDA_ARCHS, and refuses what is none', async () => {
    const toolkit = await script('cuda-toolkit.mjs')
    const { allArchitectures, cmakeArchitectures, quickArchitectures, requestedArchitectures } = toolkit
    assert.equal(cmakeArchitectures(allArchitectures), '80-real;86-real;89-real;90a-real;100-real;120')
    assert.equal(cmakeArchitectures(requestedArchitectures('80,90a')), '80-real;90a-real')
    assert.ok(quickArchitectures.every((name: string) => allArchitectures.includes(name)))
    assert.equal(requestedArchitectures(undefined), allArchitectures)
    assert.deepEqual(requestedArchitectures('sm_90a, 80'), ['90a', '80'])
    assert.equal(cmakeArchitectures(['90a', '80']), '80-real;90a-real')
    const native = { architectures: ['89'] }
    assert.deepEqual(
      requestedArchitectures('native', () => native),
      ['89'],
    )
    assert.throws(() => requestedArchitectures('native', () => ({ why: 'there is no GPU' })), /there is no GPU/)
    assert.throws(() => requestedArchitectures('hopper'), /expected .*'hopper'/)
  })
})

/** As `ptxas -v` prints it. */
const ptxas = (kernel: string, architecture: string, spilled: number) => `
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '${kernel}' for '${architecture}'
ptxas info    : Function properties for ${kernel}
    ${spilled} bytes stack frame, ${spilled} bytes spill stores, ${spilled} bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 456 bytes cmem[0]
ptxas info    : Function properties for helper
    64 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
`

describe('check:cuda', () => {
  it('finds the spills of hot kernels, of every instance and architecture', async () => {
    const { parsePtxas, registerTable, spillsOf } = await script('ptxas-report.mjs')
    const report =
      ptxas('_ZN4ddpm9hotKernelILi1EEEvv', 'sm_80', 0) +
      ptxas('_ZN4ddpm9hotKernelILi2EEEvv', 'sm_90a', 16) +
      ptxas('_ZN4ddpm12notHotKernelEvv', 'sm_80', 24)
    const entries = parsePtxas(report)
    assert.deepEqual(entries[1], {
      kernel: '_ZN4ddpm9hotKernelILi2EEEvv',
      architecture: 'sm_90a',
      stack: 16,
      spillStores: 16,
      spillLoads: 16,
      registers: 128,
    })
    const problems = spillsOf(['hotKernel'], entries)
    assert.equal(problems.length, 1)
    assert.match(problems[0], /hotKernelILi2E.* spills on sm_90a: 16 bytes of stores/)
    assert.deepEqual(spillsOf(['hotKernel'], entries.slice(0, 1)), [])
    assert.match(
      registerTable(['hotKernel'], entries),
      /hotKernel +sm_80 +1 +128 +0 +0\nhotKernel +sm_90a +1 +128 +16 +16$/,
    )
  })

  it('fails on a name that no kernel has', async () => {
    const { spillsOf } = await script('ptxas-report.mjs')
    assert.match(spillsOf(['goneKernel'], [])[0], /no kernel is called goneKernel/)
  })

  it('lists kernels that are there', async () => {
    const { hotKernels } = await script('ptxas-report.mjs')
    const folder = path.join(root, 'kernels', 'cuda')
    const names: string[] = hotKernels(readFileSync(path.join(folder, 'hot-kernels.txt'), 'utf8'))
    const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => /\.cuh?$/.test(file))
    const text = sources.map((file) => readFileSync(path.join(folder, file), 'utf8')).join('\n')
    assert.ok(names.length > 5)
    for (const name of names) assert.match(text, new RegExp(`\\b${name}\\(`), name)
  })
})
