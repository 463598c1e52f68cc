// A damaged image is left out of a training, the same one in every run. What the machine lacks just now must not look like damage.
import assert from 'node:assert/strict'
import { decodingFailure } from '../../lib/data/decode-failure'

describe('why an image is not decoded', () => {
  const cases = {
    'Input buffer contains unsupported image format': 'bad-file',
    'VipsJpeg: premature end of JPEG image': 'bad-file',
    'Input image exceeds pixel limit': 'bad-file',
    'vips_tracked: out of memory -- size == 48MB': 'out-of-memory',
    'glib: Error creating thread: Resource temporarily unavailable': 'out-of-memory',
    'unable to create thread': 'out-of-memory',
    'heif: Memory allocation error: Security limit exceeded: Allocating 4 GB exceeds the security limit of 1 GB':
      'bad-file',
    'timeout: 42% complete': 'io',
  }
  for (const [message, code] of Object.entries(cases)) {
    it(`${message}: ${code}`, () => {
      const error = decodingFailure('photos/1.png', new Error(message))
      assert.equal(error.code, code)
      assert.match(error.message, /photos\/1\.png/)
    })
  }
})
