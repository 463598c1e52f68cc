/** Training and sampling in mixed precision beside PyTorch's fp32. */
import assert from 'node:assert/strict'
import { Tensor } from '../../lib/index'
import type { Precision } from '../../lib/native'
import { assertClose } from '../support/compare'
import { devicesWith } from '../support/mixed'
import { Fixture, goldenModel } from './fixture'

/**
 * Of the losses of twenty steps, relative, and of the states of fifty, of images in [-1, 1]. A training amplifies what rounding
 * changes in its first updates; a chain adds the errors of its predictions, which the network partly corrects.
 */
const tolerance: Record<Exclude<Precision, 'fp32'>, { loss: number; chain: number }> = {
  fp16: { loss: 2e-3, chain: 5e-3 },
  bf16: { loss: 1.5e-2, chain: 4e-2 },
}

/** `npm run test:contracted` takes all steps, and the chain, as a GPU rounds; with --quick the first of them. */
const isQuick = process.env.DDPM_TEST_QUICK === '1'

for (const precision of ['fp16', 'bf16'] as const) {
  for (const device of devicesWith(precision)) {
    describe(`${precision} on ${device}`, () => {
      const steps = device === 'cuda-host' || isQuick ? 6 : 20
      it(`${steps} training steps follow the curve of fp32`, async () => {
        const fixture = await Fixture.load('train_curve')
        const { lr, betas, eps, weight_decay: weightDecay } = fixture.config.optimizer
        using ddpm = await goldenModel(fixture, { device, precision })
        ddpm.configureOptimizers({ lr, betas, eps, weightDecay })
        const losses: number[] = []
        for (let k = 0; k < steps; k++) {
          const { loss, skipped } = await ddpm.trainBatch(fixture.row('in/x', k), {
            t: fixture.row('in/t', k),
            noise: fixture.row('in/noise', k),
          })
          assert.ok(!skipped, `step ${k} overflowed`)
          losses.push(loss)
        }
        assertClose(
          losses,
          fixture.numbers('out/loss').slice(0, steps),
          { abs: 0, rel: tolerance[precision].loss },
          'losses',
        )
      })

      if (isQuick) return

      it('a chain of fifty steps ends where that of fp32 does', async () => {
        const fixture = await Fixture.load('sampling_T50')
        using ddpm = await goldenModel(fixture, { device, precision })
        const first = (rows: Tensor) => rows.data().then((data) => Tensor.from(data.slice(0, size), [1, ...shape]))
        const [, ...shape] = fixture.config.shape
        const size = shape.reduce((a: number, b: number) => a * b, 1)
        const samples = await ddpm.pSampleLoop([1, ...shape], {
          xT: await first(fixture.tensor('in/ddpm/x_T')),
          noise: (i) => first(fixture.row('in/ddpm/noise', i)),
        })
        const expected = fixture.numbers('out/ddpm/final').slice(0, size)
        assertClose(await samples.data(), expected, { abs: tolerance[precision].chain, rel: 0 }, 'final state')
      })
    }).timeout(600_000) // kernels of GPUs on a CPU: seconds where nothing else runs
  }
}
