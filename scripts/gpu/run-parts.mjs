// The parts of a GPU run, one after the other; what happens to one does not stop the next.
import { mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { runPart } from './run-part.mjs'

/** The smoke test's exit code where there is no such device. */
const noSuchDevice = 3

/**
 * Runs `parts` (parts.mjs) that are `wanted`, each with a log in `logs`; calls `onPart(results)` after each. Returns
 * { results, absent }: results as report.mjs takes them, and why nothing could be run, or ''.
 */
export async function runParts(parts, { wanted, device, logs, cwd, signal, onPart }) {
  mkdirSync(logs, { recursive: true })
  const results = []
  let absent = ''
  for (const { name, missing, accepts, ...part } of parts) {
    const why = wanted.includes(name) ? (signal?.aborted ? 'the run was ended' : (missing ?? absent)) : 'not asked for'
    if (why) results.push({ name, outcome: 'not run', why, log: '' })
    else {
      const file = path.join(logs, `${name}.log`)
      const result = { name, ...(await runPart(part, { log: file, cwd, signal })) }
      result.log = readFileSync(file, 'latin1')
      if (result.outcome === 'passed' && accepts?.(result.log) === false) {
        Object.assign(result, { outcome: 'failed', why: 'it ended well, but not as it does when all is well' })
      }
      if (name === 'smoke' && result.exitCode === noSuchDevice) absent = `there is no ${device}`
      results.push(result)
    }
    onPart?.(results, absent)
  }
  return { results, absent }
}

export const isGood = ({ outcome, why }) => outcome === 'passed' || why === 'not asked for'
