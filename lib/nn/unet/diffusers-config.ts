/** diffusers' config.json of a UNet, by the class that it is of. */
import { invalidArgument } from '../../errors'
import { unet2DSettings } from './diffusers'
import { unet2DConditionSettings } from './diffusers-condition'
import { type DiffusersUNet, type UNet2DConfig, unsupported } from './diffusers-fields'

const classes: Readonly<Record<string, (config: UNet2DConfig) => DiffusersUNet>> = {
  UNet2DModel: unet2DSettings,
  UNet2DConditionModel: unet2DConditionSettings,
}

/** Throws `invalid-argument`, and `unsupported` for what UNet can't express. */
export function diffusersUNet(config: UNet2DConfig): DiffusersUNet {
  if (typeof config !== 'object' || config === null) throw invalidArgument('config', 'an object', config)
  const { _class_name: kind = 'UNet2DModel' } = config
  if (typeof kind === 'string' && Object.hasOwn(classes, kind)) return classes[kind](config)
  const known = Object.keys(classes).map((name) => `'${name}'`)
  throw unsupported("diffusers' networks", '_class_name', known.join(' and '), kind)
}
