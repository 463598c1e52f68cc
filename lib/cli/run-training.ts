/** What every command that trains does with its trainer: shows it, stops it when asked to, says how it ended. */
import type { CommonMetrics } from '../train/metrics'
import type { RunResult, TrainHooks } from '../trainer/hooks'
import { stoppable } from './stop'
import type { TrainView, ViewedStart } from './train-view'

/** Resolves with the exit code. `again`: the command that goes on; `best`: what the best checkpoint is called, if not by its path. */
export async function runTraining<Start extends ViewedStart, Metrics extends CommonMetrics>(
  run: (hooks: TrainHooks<Start, Metrics>) => Promise<RunResult<Metrics>>,
  o: { readonly view: TrainView<Start, Metrics>; readonly again: string; readonly best?: string },
): Promise<number> {
  const { view } = o
  const { result, exitCode } = await stoppable((signal) => run({ ...view.hooks, signal }), {
    quitAt: 3,
    onRequest: (what, count) =>
      view.message(
        count === 1
          ? `${what}: stopping after this step, and saving`
          : `${what}: still finishing the step or saving; once more to quit without that`,
      ),
    lostOutput: true,
  }).finally(() => view.end())
  view.output.event('done', { ...result })
  for (const line of endOf(result, o)) view.output.say(line)
  return result.stopped === 'signal' ? exitCode : 0
}

function endOf(
  { step, stopped, why, best, model }: RunResult<unknown>,
  o: { readonly again: string; readonly best?: string },
): string[] {
  if (stopped === 'signal') return [`stopped at step ${step}; go on with: ${o.again}`]
  if (stopped === 'early')
    return [`stopped early at step ${step}: ${why}`, `done: ${model} is of step ${best?.step ?? step}`]
  const also = best && best.step !== step ? `; the best is of step ${best.step}: ${o.best ?? best.checkpoint}` : ''
  return [`done: step ${step}, ${model}${also}`]
}
