// A rank that trains in a worker thread.

import path from 'node:path'
import { Worker } from 'node:worker_threads'

const script = `
  const { DDPM, Tensor } = require(${JSON.stringify(path.join(__dirname, '..', '..', 'lib', 'index.js'))})
  const { smallUNet } = require(${JSON.stringify(path.join(__dirname, '..', 'support', 'small-unet.js'))})
  const ddpm = new DDPM({ unetConfig: smallUNet, imageSize: 8, timesteps: 50 })
  ddpm.configureOptimizers({ lr: 1e-3 })
  ddpm.trainBatch(Tensor.from(new Float32Array(192), [1, 3, 8, 8]))
`

new Worker(script, { eval: true }).on('error', (error) => {
  console.error(error)
  process.exit(1)
})
