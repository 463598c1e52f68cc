/** The denoiser that a model's options ask for. */
import type { Device } from '../../device'
import { DiffusionError, invalidArgument } from '../../errors'
import { withTrained } from '../../nn/lora/trained'
import type { Network } from '../../nn/network'
import { networkOfConfig } from '../../nn/unet-config'
import { type Denoiser, type DenoiserFunction, FunctionDenoiser, isNetwork, NetworkDenoiser } from './denoiser'
import { checkConditions } from './given-condition'
import { checkVariance } from './learned-variance'
import type { ModelSettings } from './model-options'
import type { TrainedBeside } from './trained-beside'

/** Throws `invalid-argument` for options that do not go together. */
export function denoiserOf(options: ModelSettings, device: Device, beside: readonly TrainedBeside[] = []): Denoiser {
  const model = modelOf(options)
  checkConditions(options, isNetwork(model) ? model : undefined)
  checkVariance(options)
  if (isNetwork(model)) checkTimes(options, model)
  const { weightFormat } = options
  if (isNetwork(model)) {
    device.checkWeightFormat(weightFormat)
    model.parameters.hold(weightFormat)
  } else if (weightFormat !== 'fp32') throw invalidArgument('weightFormat', "'fp32' for a function", weightFormat)
  const learned = options.varianceType !== 'fixed'
  if (isNetwork(model)) return new NetworkDenoiser(device, model, options.seed, learned, beside)
  return new FunctionDenoiser(device, model, learned)
}

/** A network that knows whole timesteps alone, or takes their logarithms, can't be told others. */
function checkTimes({ parameterization }: ModelSettings, { numTimesteps, positiveTimesteps }: Network): void {
  if (parameterization !== 'edm' && parameterization !== 'flow') return
  if (numTimesteps === undefined && !(positiveTimesteps && parameterization === 'edm')) return
  throw invalidArgument('parameterization', 'one that tells the network timesteps, which it needs', parameterization)
}

function modelOf(options: ModelSettings): Network | DenoiserFunction {
  const model = givenModel(options)
  if (isNetwork(model)) return withTrained(model, options)
  const { freeze, lora } = options
  if (freeze || lora) throw invalidArgument(freeze ? 'freeze' : 'lora', 'nothing for a function', freeze ?? lora)
  return model
}

function givenModel({ model, unetConfig }: ModelSettings): Network | DenoiserFunction {
  if ((model === undefined) === (unetConfig === undefined)) {
    const received = model ? 'both' : 'neither'
    throw new DiffusionError('invalid-argument', `expected either model or unetConfig, got ${received}`, {
      argument: 'model',
      expected: 'either model or unetConfig',
      received,
    })
  }
  return model ?? networkOfConfig(unetConfig!)
}
