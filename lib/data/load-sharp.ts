/** sharp, loaded when an image is first read or written: who has no images needs none of it. */
import type Sharp from 'sharp'
import { DiffusionError } from '../errors'

let loaded: typeof Sharp | undefined

/** Throws `unsupported` where it can't be loaded. */
export function sharp(): typeof Sharp {
  try {
    loaded ??= require('sharp') as typeof Sharp
    return loaded
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause))
      .split('\n')
      .find((line) => line.trim() !== '')
    const message = `images are read and written by sharp, which can't be loaded: ${reason}; npm install sharp, on this machine, gets it`
    throw new DiffusionError('unsupported', message, { argument: 'sharp', cause })
  }
}
