/** Where parameters lie in the banks of a network. */

/** A parameter's place in the flat buffers 'weights', 'grads', 'm', 'v' and 'ema', or, where it is frozen, in 'frozen'. */
export interface ParameterSlot {
  readonly name: string
  /** As in the PyTorch state_dict: [out, in, kh, kw], [out, in, 1], [out, in] or [c]. */
  readonly shape: readonly number[]
  /** In elements, a multiple of 16. The data lies as [out, kh, kw, in]. */
  readonly offset: number
  /** The shape it has in the graph, in the same order of axes, where a state dict has it in another. */
  readonly graphShape?: readonly number[]
  /** It is not trained: it has no gradient, no moments and no average. Default false. */
  readonly frozen?: boolean
}

/** Where a table's parameters lie within a larger one: what is added to their names and to their offsets in either bank. */
export interface TablePlace {
  readonly prefix: string
  readonly offset: number
  readonly frozenOffset: number
}

/** The parameters of a linear layer. */
export interface LinearSlots {
  readonly weight: ParameterSlot
  readonly bias?: ParameterSlot
}

/** Slots that lie side by side as one, whose outputs are those of all; undefined where they don't. */
export function joined(slots: readonly ParameterSlot[]): ParameterSlot | undefined {
  if (slots.length === 0) return undefined
  const [{ shape, offset, frozen }] = slots
  const inner = shape.slice(1)
  let [outs, end] = [0, offset]
  for (const slot of slots) {
    if (slot.frozen !== frozen || slot.offset !== end || String(slot.shape.slice(1)) !== String(inner)) return undefined
    outs += slot.shape[0]
    end += slot.shape.reduce((a, b) => a * b, 1)
  }
  return { name: slots.map(({ name }) => name).join(', '), shape: [outs, ...inner], offset, frozen }
}
