/** Where the addon is, and what was built beside it: as node-gyp-build has it, which `npm run test:sanitize` directs elsewhere. */
import path from 'node:path'

export const buildFolder = path.join(
  process.env.DDPM_NATIVE_PREBUILD ?? path.join(__dirname, '..', '..', '..'),
  'build',
  'Release',
)
