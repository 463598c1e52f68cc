import os from 'node:os'
import path from 'node:path'

/** Where what can be made again is kept: DDPM_CACHE, or ddpm-native in XDG_CACHE_HOME or ~/.cache. */
export function cacheFolder(): string {
  const { DDPM_CACHE, XDG_CACHE_HOME } = process.env
  return DDPM_CACHE || path.join(XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'ddpm-native')
}
