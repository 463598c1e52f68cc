/** The networks that `unetConfig` makes, told apart by `architecture`. */
import { invalidArgument } from '../errors'
import type { LucidrainsUNetOptions } from './lucidrains/options'
import { LucidrainsUNet } from './lucidrains/unet'
import type { Network } from './network'
import type { UNetOptions } from './unet/options'
import { UNet } from './unet/unet'

/** Options of UNet; or with `architecture: 'lucidrains'` of LucidrainsUNet. */
export type UNetConfig = UNetOptions | LucidrainsUNetOptions

/** Throws what the network's constructor throws. */
export function networkOfConfig(config: UNetConfig): UNet | LucidrainsUNet {
  if (isOfUNet(config)) return new UNet(config)
  if (config.architecture === 'lucidrains') return new LucidrainsUNet(config)
  throw invalidArgument('unetConfig.architecture', "'lucidrains', or nothing for UNet", config.architecture)
}

export function isOfUNet(config: UNetConfig): config is UNetOptions {
  return !('architecture' in config)
}

/** Whether it has options that make it again. */
export function hasConfig(network: Network | undefined): network is UNet | LucidrainsUNet {
  return network instanceof UNet || network instanceof LucidrainsUNet
}
