// The tests that a GPU has to pass: those of one device, which DDPM_TEST_DEVICE names.

const diffusion = [
  'bits-per-dim',
  'class-conditional',
  'classifier',
  'continuous',
  'cross-attention',
  'ema',
  'gaussian',
  'guidance',
  'learned-variance',
  'lora',
  'losses',
  'lr-scheduler',
  'mixed',
  'objectives',
  'operations',
  'power-ema',
  'queued',
  'repaint',
  'same-image',
  'samplers',
  'sampling',
  'schedulers',
  'self-condition',
  'sigma-samplers',
  'sigma-schedulers',
  'solver-schedulers',
  'state',
  'thresholding',
  'told-times',
  'training',
  'vector',
]

const ops = [
  'activation',
  'attention',
  'conv2d',
  'diffusion',
  'dropout',
  'elementwise',
  'embedding',
  'group-norm',
  'guidance',
  'layer-norm',
  'layout',
  'linear',
  'linear-attention',
  'loss',
  'optimizer',
  'resample',
  'table-bounds',
  'tokens',
  'variance',
]

const compiled = (folder) => (name) => `dist/test/${folder}/${name}.test.js`

export const opTests = ops.map(compiled('ops'))

/** Ops first: what fails there fails everywhere. */
export const gpuTests = [
  ...opTests,
  ...['exit', 'precision', 'receivers', 'recordings', 'run-queue'].map(compiled('native')),
  ...[
    'unet',
    'encoder-unet',
    'inception',
    'joined-linears',
    'lora',
    'recomputed',
    'unet2d-condition',
    'unet2d-golden',
    'unet2d-options',
    'vector',
    'lucidrains',
  ].map(compiled('nn')),
  ...['stage'].map(compiled('stages')),
  ...diffusion.map(compiled('diffusion')),
  ...['metrics'].map(compiled('evaluate')),
  ...['held-out-resume'].map(compiled('train')),
]
