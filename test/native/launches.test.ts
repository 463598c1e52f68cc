/** How kernels are launched, as cuda-host says with DDPM_HOST_LAUNCHES. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { testedBackends } from '../support/devices'

interface Launch {
  readonly kernel: string
  readonly blocks: number
}

function launchesOf(child: string, argument: string): Launch[] {
  const { status, stderr } = spawnSync(process.execPath, [path.join(__dirname, child), argument], {
    encoding: 'utf8',
    env: { ...process.env, DDPM_HOST_LAUNCHES: '1' },
    timeout: 60_000,
  })
  assert.equal(status, 0, stderr)
  return Array.from(stderr.matchAll(/^launch (.*), grid (\d+)x(\d+)x(\d+), block /gm), ([, kernel, ...grid]) => ({
    kernel,
    blocks: grid.map(Number).reduce((a, b) => a * b),
  }))
}

describe('launches', () => {
  for (const norm of ['groupNorm', 'layerNorm']) {
    it(`${norm}: gradients of gamma and beta are summed up by one launch of several blocks`, function () {
      if (!testedBackends.includes('cuda-host')) {
        console.log('Not tested: launches, without cuda-host')
        return this.skip()
      }
      const sums = launchesOf('launches-child.js', norm).filter(({ kernel }) => kernel.includes('accumulate'))
      assert.deepEqual(sums, [{ kernel: 'accumulatePairsKernel', blocks: (2 * 128) / 32 }])
    })
  }
})
