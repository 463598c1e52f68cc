/** A sampling as a loop of its caller's: it waits at each step until the loop asks for the next. */
import type { StepEvent } from './loop'

export interface StepsOptions {
  readonly onStep?: (event: StepEvent) => unknown
  readonly signal?: AbortSignal
}

/** What the sampling has come to: a step, and how it is told to go on; undefined at its end. */
type Place = { readonly event: StepEvent; readonly goOn: () => void } | undefined

/** Ends the sampling when the loop is left. Throws what `sample` throws. */
export async function* stepsOf<O extends StepsOptions>(
  sample: (options: O) => Promise<unknown>,
  options: O,
): AsyncGenerator<StepEvent, void, undefined> {
  const left = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, left.signal]) : left.signal
  let tell: (place: Place) => void
  const place = () =>
    new Promise<Place>((resolve) => {
      tell = resolve
    })
  let next = place()
  const onStep = async (event: StepEvent) => {
    await options.onStep?.(event)
    await new Promise<void>((goOn) => tell({ event, goOn }))
  }
  let failure: { readonly error: unknown } | undefined
  const ended = sample({ ...options, onStep, signal }).then(
    () => tell(undefined),
    (error) => {
      failure = { error }
      tell(undefined)
    },
  )
  try {
    for (let at = await next; at; at = await next) {
      next = place()
      let wantsMore = false
      try {
        yield at.event
        wantsMore = true
      } finally {
        if (!wantsMore) left.abort()
        at.goOn()
      }
    }
  } finally {
    left.abort()
    await ended
  }
  if (failure) throw failure.error
}
