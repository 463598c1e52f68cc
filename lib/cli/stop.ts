/** The ways in which a process is asked to stop: by signals, and by an output that nobody takes any more. */
import os from 'node:os'
import { type LostOutput, onLostOutput } from './output'

/** SIGUSR1, SIGUSR2 and SIGXCPU are how batch systems say that the time is up. A listener keeps Node's inspector from SIGUSR1. */
const signals = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU'] as const
/** Terminals and wrappers forward what the process has got already: within this time everything counts as one request. */
const repeatMs = 2000

/** The reason of the signals below, so that whoever catches the abort knows the exit code. */
export class Interrupted extends Error {
  constructor(readonly exitCode: number) {
    super('interrupted')
  }
}

export interface StopOptions {
  /** The request at which the process ends at once (default 2, the second). */
  readonly quitAt?: number
  /** `count`: 1 for the first. */
  readonly onRequest?: (what: string, count: number) => void
  /** Whether an output that fails is such a request, too (default false). */
  readonly lostOutput?: boolean
}

/** One for the process. */
const state = {
  controller: undefined as AbortController | undefined,
  options: {} as StopOptions,
  count: 0,
  last: 0,
  exitCode: 0,
}

/** From here on signals end the process with 128 + their number, as shells report it, by way of 'exit' listeners. */
export function listenToSignals(): void {
  for (const name of signals) process.on(name, onSignal) // never taken off again: that would make them deadly
}

/**
 * Runs `work` with a signal that the first request fires. What follows within two seconds is the same request. `exitCode` is 0
 * where there was none, 128 + the number of a signal (a closed output counts as SIGPIPE), or 1 for an output that failed otherwise.
 */
export async function stoppable<T>(
  work: (signal: AbortSignal) => Promise<T>,
  options: StopOptions = {},
): Promise<{ result: T; exitCode: number }> {
  const controller = new AbortController()
  Object.assign(state, { controller, options })
  if (options.lostOutput) {
    process.on('SIGPIPE', onSignal)
    onLostOutput((lost) => request(exitCodeOf(lost), `${lost.name} can't be written any more (${lost.reason})`))
  }
  try {
    return { result: await work(controller.signal), exitCode: state.exitCode }
  } finally {
    state.controller = undefined
  }
}

function onSignal(name: NodeJS.Signals): void {
  request(128 + os.constants.signals[name], name)
}

function exitCodeOf(lost: LostOutput): number {
  return lost.closed ? 128 + os.constants.signals.SIGPIPE : 1
}

function request(exitCode: number, what: string): void {
  const now = performance.now()
  if (state.count > 0 && now - state.last < repeatMs) return
  state.last = now
  state.count++
  if (state.count === 1) state.exitCode = exitCode
  const { quitAt = 2, onRequest } = state.options
  if (!state.controller || state.count >= quitAt) process.exit(exitCode)
  onRequest?.(what, state.count)
  state.controller.abort(new Interrupted(exitCode))
}
