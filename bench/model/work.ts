/** What a step of a program has to do at least: arithmetic and bytes, from its operands' shapes alone. */
import type { ProgramStep, StepTensor } from '../../lib/native'

const elements = ({ dims }: StepTensor) => dims.reduce((a, b) => a * b, 1)
const rows = ({ dims: [n, h, w] }: StepTensor) => n * h * w
const sizeOf = ({ dtype }: StepTensor) => (dtype === 'f16' || dtype === 'bf16' ? 2 : 4)
/** The operands of a step's products: its precision is theirs. */
const operand = ({ tensors: t }: ProgramStep): StepTensor | undefined => t.x ?? t.dy ?? t.q

export const isNarrow = (step: ProgramStep): boolean => {
  const t = operand(step)
  return t !== undefined && sizeOf(t) === 2
}

/** Multiply-adds of products, times two; what is done elementwise does not count. */
export function flopsOf({ op, tensors: t }: ProgramStep): number {
  switch (op) {
    case 'Conv2d':
      return 2 * rows(t.y) * elements(t.w)
    case 'Conv2dDgrad':
      return 2 * rows(t.dy) * elements(t.w)
    case 'Conv2dWgrad':
      return 2 * rows(t.dy) * elements(t.dWeight)
    case 'Attention': // q k', p v
      return 2 * attentionProduct(t)
    case 'AttentionBackward': // q k' and dy v' again; dv, dq, dk
      return 5 * attentionProduct(t)
    default:
      return 0
  }
}

const attentionProduct = ({ q, k, y }: ProgramStep['tensors']) => {
  const [n, h, w] = q.dims
  const [, kh, kw] = k.dims
  return 2 * n * h * w * kh * kw * y.dims[3]
}

/** Each operand read and written once, what is accumulated both; and scratch memory written and read once. */
export function bytesOf({ tensors, scratchBytes }: ProgramStep): number {
  let bytes = 2 * scratchBytes
  for (const t of Object.values(tensors)) bytes += elements(t) * sizeOf(t) * (t.access === 'update' ? 2 : 1)
  return bytes
}
