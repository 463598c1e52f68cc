// What ran on a GPU, what did not, and why: text of a report.
import { sanitizerSummary } from './compute-sanitizer.mjs'

/** The last lines of a log that say what went wrong. */
const tailLines = 40

/** The lines of a part's log that tell most: mocha's counts, the sanitizer's summaries, else the last one. */
export function gist(log) {
  const lines = log.split('\n').filter((line) => line.trim())
  const summary = sanitizerSummary(log)
  if (summary.errors !== undefined) return summary.text.split('\n').at(-1).trim()
  const counts = lines.filter((line) => /^ *\d+ (passing|failing|pending)/.test(line)).map((line) => line.trim())
  return counts.join(', ') || lines.at(-1)?.trim() || 'it printed nothing'
}

/** results: { name, outcome, why, seconds, log (the text) }; `outcome` is 'passed', 'failed', 'out of time' or 'not run'. */
export function gpuReport({ date, command, results }) {
  const rows = results.map(({ name, outcome, why, seconds, log }) => {
    const what = outcome === 'not run' ? why : [why, gist(log)].filter(Boolean).join('; ')
    return `| ${name} | ${outcome} | ${seconds === undefined ? '' : seconds.toFixed(0)} | ${what.replaceAll('|', '\\|')} |`
  })
  const logs = results
    .filter(({ outcome }) => outcome === 'failed' || outcome === 'out of time')
    .map(
      ({ name, log }) =>
        `\n## The end of ${name}'s log\n\n\`\`\`\n${log.trimEnd().split('\n').slice(-tailLines).join('\n')}\n\`\`\`\n`,
    )
  return `# GPU run of ${date}\n\n\`${command}\`\n\n| part | outcome | seconds | |\n|---|---|---:|---|\n${rows.join('\n')}\n${logs.join('')}`
}
