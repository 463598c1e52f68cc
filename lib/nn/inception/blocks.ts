/**
 * The blocks of InceptionV3 (Szegedy et al. 2016, "Rethinking the Inception Architecture", figures 5 to 7 and 10) by torchvision's
 * names, as the network is that FID is defined by: its mean pools leave the padding out.
 */
import { branches, type Convolutions, chain, halvingPool, type Layer, meanPool } from './layers'

/** 35x35 maps: 5x5 and two 3x3. Gives 224 channels and those of the pool. */
export function blockA(c: Convolutions, channels: number, pool: number): Layer {
  return branches(
    c.conv('branch1x1', [channels, 64]),
    chain(c.conv('branch5x5_1', [channels, 48]), c.conv('branch5x5_2', [48, 64], { kernel: 5 })),
    chain(
      c.conv('branch3x3dbl_1', [channels, 64]),
      c.conv('branch3x3dbl_2', [64, 96], { kernel: 3 }),
      c.conv('branch3x3dbl_3', [96, 96], { kernel: 3 }),
    ),
    chain(meanPool, c.conv('branch_pool', [channels, pool])),
  )
}

const halving = { kernel: 3, stride: 2, padding: 'valid' } as const

/** 35x35 to 17x17. Gives 480 channels and those of x. */
export function blockB(c: Convolutions, channels: number): Layer {
  return branches(
    c.conv('branch3x3', [channels, 384], halving),
    chain(
      c.conv('branch3x3dbl_1', [channels, 64]),
      c.conv('branch3x3dbl_2', [64, 96], { kernel: 3 }),
      c.conv('branch3x3dbl_3', [96, 96], halving),
    ),
    halvingPool,
  )
}

const row = { kernel: [1, 7] } as const
const column = { kernel: [7, 1] } as const

/** 17x17 maps: 7x7 as 1x7 and 7x1, of `inner` channels. Gives 768 channels. */
export function blockC(c: Convolutions, channels: number, inner: number): Layer {
  return branches(
    c.conv('branch1x1', [channels, 192]),
    chain(
      c.conv('branch7x7_1', [channels, inner]),
      c.conv('branch7x7_2', [inner, inner], row),
      c.conv('branch7x7_3', [inner, 192], column),
    ),
    chain(
      c.conv('branch7x7dbl_1', [channels, inner]),
      c.conv('branch7x7dbl_2', [inner, inner], column),
      c.conv('branch7x7dbl_3', [inner, inner], row),
      c.conv('branch7x7dbl_4', [inner, inner], column),
      c.conv('branch7x7dbl_5', [inner, 192], row),
    ),
    chain(meanPool, c.conv('branch_pool', [channels, 192])),
  )
}

/** 17x17 to 8x8. Gives 512 channels and those of x. */
export function blockD(c: Convolutions, channels: number): Layer {
  return branches(
    chain(c.conv('branch3x3_1', [channels, 192]), c.conv('branch3x3_2', [192, 320], halving)),
    chain(
      c.conv('branch7x7x3_1', [channels, 192]),
      c.conv('branch7x7x3_2', [192, 192], row),
      c.conv('branch7x7x3_3', [192, 192], column),
      c.conv('branch7x7x3_4', [192, 192], halving),
    ),
    halvingPool,
  )
}

/** 8x8 maps: 3x3 as 1x3 beside 3x1. Gives 2048 channels. */
export function blockE(c: Convolutions, channels: number, pool: Layer): Layer {
  const split = (name: string) =>
    branches(c.conv(`${name}a`, [384, 384], { kernel: [1, 3] }), c.conv(`${name}b`, [384, 384], { kernel: [3, 1] }))
  return branches(
    c.conv('branch1x1', [channels, 320]),
    chain(c.conv('branch3x3_1', [channels, 384]), split('branch3x3_2')),
    chain(
      c.conv('branch3x3dbl_1', [channels, 448]),
      c.conv('branch3x3dbl_2', [448, 384], { kernel: 3 }),
      split('branch3x3dbl_3'),
    ),
    chain(pool, c.conv('branch_pool', [channels, 192])),
  )
}
