/** Options of a training by the kind of data, by the names of `ddpm train`; those that are given come before them. */
export const presets = {
  /** A few hundred icons or sprites in some minutes on two cores: it learns them, and draws them again. */
  small: {
    size: [32, 32],
    'model-channels': 32,
    'channel-mult': [1, 2, 4],
    'res-blocks': 1,
    attention: [4],
    'scale-shift-norm': true,
    schedule: 'cosine',
    parameterization: 'v',
    lr: 1e-3,
    'lr-schedule': 'trapezoid',
    'ema-decay': 0.995,
    batch: 16,
    steps: 4000,
    'no-flip': true,
  },
  /** What the model of this package was made with (models/README.md): some thousand pictures of 32x32 in some hours. */
  icons: {
    size: [32, 32],
    'model-channels': 64,
    'channel-mult': [1, 1, 2],
    'res-blocks': 1,
    attention: [4],
    'scale-shift-norm': true,
    schedule: 'cosine',
    parameterization: 'v',
    lr: 5e-4,
    warmup: 300,
    'lr-schedule': 'trapezoid',
    'ema-decay': 0.999,
    batch: 16,
    steps: 30_000,
    'no-flip': true,
  },
  /** Ho et al. 2020, appendix B: CIFAR-10. For a GPU. */
  cifar10: {
    size: [32, 32],
    'model-channels': 128,
    'channel-mult': [1, 2, 2, 2],
    'res-blocks': 2,
    attention: [2],
    heads: 1,
    dropout: 0.1,
    lr: 2e-4,
    warmup: 5000,
    batch: 128,
    steps: 800_000,
  },
  /** Ho et al. 2020, appendix B: CelebA-HQ and LSUN at 256x256. For a GPU. */
  lsun256: {
    size: [256, 256],
    'model-channels': 128,
    'channel-mult': [1, 1, 2, 2, 4, 4],
    'res-blocks': 2,
    attention: [16],
    heads: 1,
    lr: 2e-5,
    warmup: 5000,
    batch: 64,
    steps: 500_000,
  },
} as const

export const presetNames = Object.keys(presets) as readonly (keyof typeof presets)[]
