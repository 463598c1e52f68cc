/** Long work on JavaScript's thread, in pieces. */
import { setImmediate } from 'node:timers/promises'

/** How long the event loop may be held up, in ms. */
const limit = 8

/**
 * Made where the work begins, called between its pieces: lets the event loop turn when it has been held up for long
 * enough.
 */
export function pauses(): () => Promise<void> {
  let last = performance.now()
  return async () => {
    if (performance.now() - last < limit) return
    await setImmediate()
    last = performance.now()
  }
}
