/** InceptionV3 from the file that the user names. */
import type { DeviceName } from '../device'
import { DiffusionError } from '../errors'
import { InceptionV3 } from './inception-v3'

/** Where pytorch-fid publishes the weights of Heusel et al.'s network, in PyTorch's form. */
const published =
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth'

/** Of a file, or of the one that DDPM_INCEPTION names. Nothing is downloaded. Throws `not-found`, and what InceptionV3.fromFile throws. */
export async function openInception(
  file: string | undefined = process.env.DDPM_INCEPTION || undefined,
  options: { readonly device?: DeviceName } = {},
): Promise<InceptionV3> {
  if (file === undefined) throw missing('no file of its weights is named')
  try {
    return await InceptionV3.fromFile(file, options)
  } catch (error) {
    if (!(error instanceof DiffusionError) || error.code !== 'not-found') throw error
    throw missing(`there is no ${file}`, error)
  }
}

function missing(problem: string, cause?: DiffusionError): DiffusionError {
  const message = `inception: ${problem}: InceptionV3's weights are pytorch-fid's ${published}, which is not downloaded here; DDPM_INCEPTION can name it, too`
  return new DiffusionError('not-found', message, { argument: 'inception', ...(cause && { cause }) })
}
