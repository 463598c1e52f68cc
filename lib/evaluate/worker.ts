/** The thread on which moments are summed and distances computed, so that JavaScript's own stays free: see calculations.ts. */
import { parentPort } from 'node:worker_threads'
import { DiffusionError } from '../errors'
import { frechet } from './frechet'
import { type Moments, RunningMoments } from './moments'

let running: RunningMoments | undefined

const calls = {
  begin(features: number): void {
    running = new RunningMoments(features)
  },
  add(rows: Float32Array): void {
    running!.add(rows)
  },
  moments: (): Moments => running!.result(),
  frechet,
}
export type Calls = typeof calls

export interface Request {
  readonly name: keyof Calls
  readonly args: readonly unknown[]
}

/** In the order of the requests. */
export type Answer =
  | { readonly result: unknown }
  | { readonly error: Pick<DiffusionError, 'code' | 'message' | 'argument'> }

parentPort?.on('message', ({ name, args }: Request) => {
  parentPort!.postMessage(answerTo(name, args))
})

function answerTo(name: keyof Calls, args: readonly unknown[]): Answer {
  try {
    return { result: (calls[name] as (...args: readonly unknown[]) => unknown)(...args) }
  } catch (error) {
    const { code, message, argument } = DiffusionError.from(error)
    return { error: { code, message, argument } }
  }
}
