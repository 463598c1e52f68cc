// One part of a GPU run: a process with a deadline and a log of its own.
import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'

/** Between the request to end and the end. */
const graceMs = 3000

/**
 * Runs `command args` with stdout and stderr in `log`, and ends it and all its children after `seconds`. Never rejects:
 * { outcome: 'passed' | 'failed' | 'out of time', why, seconds, exitCode }.
 */
export async function runPart({ command, args, seconds, env }, { log, cwd, signal }) {
  const start = performance.now()
  const elapsed = () => (performance.now() - start) / 1000
  const fd = openSync(log, 'w')
  const timers = []
  try {
    // A process group of its own: what hangs may be a child of the child.
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', fd, fd],
      detached: true,
    })
    const kill = (name) => {
      try {
        process.kill(-child.pid, name)
      } catch {} // it is gone
    }
    let late = false
    const end = () => {
      kill('SIGTERM')
      timers.push(setTimeout(() => kill('SIGKILL'), graceMs))
    }
    timers.push(
      setTimeout(() => {
        late = true
        end()
      }, 1000 * seconds),
    )
    signal?.addEventListener('abort', end)
    const ended = await new Promise((resolve) => {
      child.on('error', (error) => resolve({ why: error.message }))
      child.on('exit', (exitCode, name) => {
        if (late) kill('SIGKILL') // whom it left behind
        resolve({ exitCode: exitCode ?? undefined, why: name ? `ended by ${name}` : `exit code ${exitCode}` })
      })
    })
    signal?.removeEventListener('abort', end)
    if (late) return { outcome: 'out of time', why: `not done after ${seconds} s`, seconds: elapsed() }
    if (ended.exitCode === 0) return { outcome: 'passed', why: '', seconds: elapsed(), exitCode: 0 }
    return { outcome: 'failed', ...ended, seconds: elapsed() }
  } finally {
    for (const timer of timers) clearTimeout(timer)
    closeSync(fd)
  }
}
