/** The stand-in for NCCL (test/fake-nccl). */
import path from 'node:path'
import { buildFolder } from './build-folder'

export const fakeNccl = path.join(buildFolder, 'fake-nccl')
