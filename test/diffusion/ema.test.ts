import { Device } from '../../lib/device'
import { Core } from '../../lib/diffusion/process/core'
import { NetworkDenoiser } from '../../lib/diffusion/process/denoiser'
import { makeBetaSchedule, makeSchedule } from '../../lib/diffusion/process/schedule'
import { LitEma } from '../../lib/diffusion/training/ema'
import type { Network } from '../../lib/nn/network'
import { ParameterTable, zeros } from '../../lib/nn/parameters'
import { assertClose } from '../support/compare'
import { testDevice } from '../support/devices'
import { Fixture } from './fixture'

/** Nothing but the parameters of the recorded module. */
class Parameters implements Network {
  readonly inChannels = 1
  readonly outChannels = 1
  readonly imageSize = 1
  readonly divisor = 1
  readonly parameters = new ParameterTable()

  constructor(fixture: Fixture) {
    for (const name of fixture.names('in/init/')) {
      this.parameters.add(name, fixture.shape(`in/init/${name}`), zeros)
    }
  }

  build(): never {
    throw new Error('never run')
  }
}

describe('LitEma', () => {
  for (const name of ['ema', 'ema_constant']) {
    it(`${name}: the average after each update`, async () => {
      const fixture = await Fixture.load(name)
      const device = Device.open(testDevice)
      const network = new Parameters(fixture)
      const denoiser = new NetworkDenoiser(device, network, 0, false)
      const betas = makeBetaSchedule('linear', 10, { linearStart: 1e-4, linearEnd: 0.02, cosineS: 0 })
      const settings = {
        parameterization: 'eps',
        lossType: 'l2',
        vPosterior: 0,
        lSimpleWeight: 1,
        originalElboWeight: 0,
        clipDenoised: true,
        logEveryT: 100,
        timestepSpacing: 'linspace',
        deterministic: false,
        precision: 'fp32',
        classDropout: 0,
        contextDropout: 0,
        vectorDropout: 0,
        offsetNoise: 0,
        varianceType: 'fixed',
        distributed: 'off',
        shardOptimizer: false,
      } as const
      const core = Core.create(device, denoiser, settings, makeSchedule(betas, settings), 0)
      const { weights } = denoiser
      const names = fixture.names('in/init/')
      const dictOf = (prefix: string, i: number) =>
        Object.fromEntries(names.map((n) => [n, fixture.row(`${prefix}/${n}`, i)]))
      try {
        const ema = new LitEma(fixture.config.decay, fixture.config.use_num_updates)
        // in/init holds the last parameters in place of the first, so this starts after the first update.
        ema.advance()
        await weights.write('ema', dictOf('out', 0))
        const { rtol: rel, atol: abs } = fixture.tolerance.suggest
        for (let i = 1; i < fixture.config.steps; i++) {
          await weights.write('weights', dictOf('in', i))
          await ema.update(core, weights)
          const averaged = await weights.read('ema')
          for (const n of names) {
            const expected = await fixture.row(`out/${n}`, i).data()
            assertClose(await averaged[n].data(), expected, { rel, abs }, `${n} after update ${i + 1}`)
          }
        }
        assertClose([ema.numUpdates], fixture.numbers('out/num_updates'), { rel: 0, abs: 0 }, 'num_updates')
      } finally {
        core.dispose()
      }
    })
  }
})
