// compute-sanitizer: where it is, and what its last words mean.
import { accessSync, constants } from 'node:fs'
import path from 'node:path'

/** { sanitizer } or { why }. */
export function findSanitizer(env = process.env) {
  const folders = (env.PATH ?? '').split(path.delimiter).map((folder) => folder || '.')
  for (const folder of [...folders, '/usr/local/cuda/bin', '/usr/local/cuda/compute-sanitizer']) {
    const file = path.join(folder, 'compute-sanitizer')
    try {
      accessSync(file, constants.X_OK)
      return { sanitizer: file }
    } catch {}
  }
  return { why: 'it is neither in PATH nor in /usr/local/cuda' }
}

/** { errors, text }: of all summaries of all processes; errors is undefined where there is none. */
export function sanitizerSummary(output) {
  const lines = output.split('\n').filter((line) => /(ERROR|RACECHECK) SUMMARY:/.test(line))
  // "ERROR SUMMARY: 2 errors", "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
  const counts = lines.map((line) => Number(/\((\d+) errors?/.exec(line)?.[1] ?? /SUMMARY: (\d+)/.exec(line)?.[1]))
  const errors = counts.length > 0 ? counts.reduce((a, b) => a + b, 0) : undefined
  return { errors, text: lines.join('\n') || 'compute-sanitizer printed no summary' }
}
