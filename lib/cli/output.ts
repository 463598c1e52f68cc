/** What goes where: results on stdout, everything else on stderr; with --json, JSON lines on stdout. */

export interface Output {
  readonly json: boolean
  /** A line for machines; nothing without --json. */
  event(name: string, fields: Record<string, unknown>): void
  /** A line for people; nothing with --json. */
  say(text: string): void
}

export function createOutput(json: boolean): Output {
  return {
    json,
    event: (name, fields) => void (json && process.stdout.write(`${JSON.stringify({ event: name, ...fields })}\n`)),
    say: (text) => void (json || process.stdout.write(`${text}\n`)),
  }
}

/** Runs `work` with a signal that the first SIGINT or SIGTERM fires; the second one ends the process at once. */
export async function withSignals<T>(
  work: (signal: AbortSignal) => Promise<T>,
  onSignal: (name: NodeJS.Signals) => void = () => {},
): Promise<{ result: T; exitCode: number }> {
  const controller = new AbortController()
  let exitCode = 0
  const handler = (name: NodeJS.Signals) => {
    const code = name === 'SIGINT' ? 130 : 143 // 128 + the signal's number, as shells report it
    if (exitCode !== 0) process.exit(code)
    exitCode = code
    onSignal(name)
    controller.abort(new Interrupted(code))
  }
  process.on('SIGINT', handler)
  process.on('SIGTERM', handler)
  try {
    return { result: await work(controller.signal), exitCode }
  } finally {
    process.off('SIGINT', handler)
    process.off('SIGTERM', handler)
  }
}

/** The reason of the signal above, so that whoever catches the abort knows the exit code. */
export class Interrupted extends Error {
  constructor(readonly exitCode: number) {
    super('interrupted')
  }
}
