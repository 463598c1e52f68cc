/** The stand-in for cuDNN (test/fake-cudnn) becomes the library of cuda-host in this process. */
import path from 'node:path'
import { buildFolder } from './build-folder'

export const fakeCudnn = path.join(buildFolder, 'fake-cudnn')
/** The same without cudnnBackendExecute. */
export const incompleteCudnn = path.join(buildFolder, 'fake-cudnn-incomplete')

process.env.DDPM_HOST_CUDNN = fakeCudnn

/** ConvAlgo::library of kernels/ops.h. */
export const libraryAlgo = 3
