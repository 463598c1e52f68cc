/** Whether an image or the machine is to blame where one can't be decoded. */
import { DiffusionError } from '../errors'
import { bad, maxPixels } from './image-limits'

/** What libvips says, which is the image's fault unless the machine has run out of something. */
export function decodingFailure(file: string, error: Error): DiffusionError {
  if (/exceeds pixel limit/.test(error.message)) return bad(file, `it has more than maxPixels (${maxPixels})`, error)
  const code = lack(error.message)
  if (!code) return bad(file, error.message.split('\n')[0], error)
  const message = `cannot decode the image ${file}: ${error.message}`
  return new DiffusionError(code, message, { argument: 'file', received: file, cause: error })
}

/** What the machine has not got enough of: another time the same image may be decoded. */
function lack(message: string): 'out-of-memory' | 'io' | undefined {
  if (/security limit/i.test(message)) return undefined // libheif calls its own limits memory allocation errors
  if (/out of memory|alloc|too many open files|creat\w+ thread|temporarily unavailable/i.test(message))
    return 'out-of-memory'
  return /^timeout:/.test(message) ? 'io' : undefined // maxDecodeSeconds, which pass the sooner the more else runs
}
