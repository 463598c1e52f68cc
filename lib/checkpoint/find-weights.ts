/**
 * Where a checkpoint keeps the weights of a network: under which name of its dicts (a training keeps them beside its optimizer), and
 * with what before each name (DistributedDataParallel's 'module.', torch.compile's '_orig_mod.', an average's 'ema_model.').
 */

/** Names of the tensors of one dict of a checkpoint. */
export interface NamedDict {
  /** Of the dict within the file, 'ema' or 'ema.shadow'; '' for the whole. */
  readonly key: string
  readonly names: readonly string[]
}

export interface FoundWeights {
  readonly key: string
  /** Before each of the network's names. */
  readonly prefix: string
}

/** Usual names of dicts of weights, the likely first. */
const usual = [
  ...[
    'state_dict',
    'model_state_dict',
    'model',
    'net',
    'network',
    'unet',
    'diffusion',
    'module',
    'generator',
    'denoise_fn',
  ],
  ...['score_model', 'params', 'weights', 'ema', 'ema_model', 'model_ema', 'ema_state_dict'],
]

/** What averages are called; ema-pytorch keeps the trained weights ('online_model') beside its own. */
export function isAverage({ key, prefix }: FoundWeights): boolean {
  const name = `${key}.${prefix}`.toLowerCase()
  return /(^|[._])ema([._]|$)|shadow|averag/.test(name) && !/online/.test(prefix)
}

/**
 * All places with a name that ends with one of `anchors`, a parameter's, the likely first: averages or the others by `weights`, then
 * by the dict's name and depth.
 */
export function findWeights(
  dicts: readonly NamedDict[],
  anchors: readonly string[],
  weights: 'ema' | 'model' = 'model',
): FoundWeights[] {
  const found = dicts.flatMap(({ key, names }) =>
    names.flatMap((name): FoundWeights[] => {
      const anchor = anchors.find((a) => name === a || name.endsWith(`.${a}`))
      return anchor === undefined ? [] : [{ key, prefix: name.slice(0, name.length - anchor.length) }]
    }),
  )
  const rank = (place: FoundWeights) => {
    const first = usual.indexOf(place.key.split('.')[0])
    const wrong = isAverage(place) !== (weights === 'ema') ? 1000 : 0
    return wrong + (place.key === '' ? 0 : first < 0 ? usual.length : first + 1)
  }
  return found.sort((a, b) => rank(a) - rank(b))
}

/** A parameter of a UNet in either layout, by which its place is found where the network is not known. */
const unetAnchors = ['input_blocks.0.0.weight', 'conv_in.weight']

/** The dict to take where nothing says what network it is of: a UNet's, what is called state_dict, or else the largest. */
export function likelyDict(dicts: readonly NamedDict[]): NamedDict | undefined {
  const [unet] = findWeights(dicts, unetAnchors)
  const { key = 'state_dict' } = unet ?? {}
  return dicts.find((dict) => dict.key === key) ?? [...dicts].sort((a, b) => b.names.length - a.names.length)[0]
}

/** Whether there are averaged weights of a UNet, ddpm.py's or others. */
export function hasAverages(dicts: readonly NamedDict[]): boolean {
  const litEma = dicts.some(({ names }) => names.some((name) => name.includes('model_ema.diffusion_model')))
  return litEma || findWeights(dicts, unetAnchors, 'ema').some(isAverage)
}

/** A UNet's tensors by its own names, without what is before them and without all others. */
export function bareNames<T>(tensors: Readonly<Record<string, T>>): Record<string, T> {
  const [{ prefix } = { prefix: '' }] = findWeights([{ key: '', names: Object.keys(tensors) }], unetAnchors)
  const own = Object.entries(tensors).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]))
}
