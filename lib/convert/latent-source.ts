/** Latent models in one file by CompVis' names: told from others, and read. */
import { checkKey, readShapes } from '../checkpoint/state-dict-file'
import { isLatentFile } from '../diffusion/formats/infer-latent'

/** Whether a checkpoint has a first stage beside its network, by ddpm.py's names. Throws `invalid-argument` for a key that it has not got. */
export async function isLatentCkpt(file: string, key?: string): Promise<boolean> {
  let found = false
  await readShapes(file, (dicts) => {
    if (key !== undefined) checkKey(key, dicts)
    const among = key === undefined ? dicts : dicts.filter((dict) => dict.key === key)
    found = among.some(({ names }) => isLatentFile(names))
    return { key: '', wanted: () => false }
  })
  return found
}
