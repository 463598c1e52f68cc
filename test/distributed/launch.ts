/** Processes under mpirun; or why there are none. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'

const root = path.join(__dirname, '..', '..', '..')

function versionOfMpirun(): string | undefined {
  try {
    return execFileSync('mpirun', ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return undefined
  }
}

const version = versionOfMpirun()

/** Why nothing can be launched. */
export const unlaunchable: string | undefined = !version
  ? 'there is no mpirun'
  : existsSync(path.join(root, 'build', 'Release', 'ddpm_mpi.so'))
    ? undefined
    : 'there is no ddpm_mpi.so: npm run build:mpi'

export interface Ended {
  readonly code: number | null
  readonly output: string
}

export interface Launched {
  readonly pid: number
  readonly ended: Promise<Ended>
}

const running = new Set<ChildProcess>()

/** Ends what a test that failed has left. */
export function endAll(): void {
  for (const child of running) child.kill('SIGTERM') // the launcher ends its processes
}

/** `ranks` processes of a compiled script beside this file, or of one by its path; more of them than there are cores perhaps. */
export function launch(
  ranks: number,
  script: string,
  args: readonly (string | number)[] = [],
  env: Record<string, string> = {},
): Launched {
  // Open MPI counts cores, and does not start as root unless told to.
  const own = /open mpi|open-mpi/i.test(version ?? '') ? ['--oversubscribe'] : []
  const child = spawn(
    'mpirun',
    [...own, '-n', String(ranks), process.execPath, path.resolve(__dirname, script), ...args.map(String)],
    {
      env: {
        ...process.env,
        OMPI_ALLOW_RUN_AS_ROOT: '1',
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
        DDPM_NUM_THREADS: '1',
        ...env,
      },
    },
  )
  let output = ''
  child.stdout.on('data', (data) => {
    output += data
  })
  child.stderr.on('data', (data) => {
    output += data
  })
  running.add(child)
  child.on('close', () => running.delete(child))
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, output }))
  })
  return { pid: child.pid!, ended }
}

/** What a child wrote as one line of JSON. */
export function resultOf<T>({ code, output }: Ended): T {
  const line = output.split('\n').find((text) => text.startsWith('{'))
  if (code === 0 && line) return JSON.parse(line) as T
  throw new Error(`mpirun ended with ${code}: ${output.slice(-4000)}`)
}
