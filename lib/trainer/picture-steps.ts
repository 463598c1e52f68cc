/** After which steps a training shows pictures. */

/** So that it is soon seen whether a training goes well. */
const early: readonly number[] = [100, 200, 500]

/** Whether there are pictures after a step. */
export function isPictureStep(
  step: number,
  { sampleEvery, steps }: { readonly sampleEvery: number; readonly steps: number },
): boolean {
  if (sampleEvery === 0) return false
  return step % sampleEvery === 0 || step === steps || (step < sampleEvery && early.includes(step))
}

/** The first step after `step` after which there are pictures; undefined where there is none. */
export function nextPictureStep(
  step: number,
  o: { readonly sampleEvery: number; readonly steps: number },
): number | undefined {
  const next = [...early, (Math.floor(step / o.sampleEvery) + 1) * o.sampleEvery, o.steps]
  return next.filter((s) => s > step && s <= o.steps && isPictureStep(s, o)).sort((a, b) => a - b)[0]
}
