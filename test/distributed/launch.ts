/** Processes under mpirun; or why there are none. */
import { type ChildProcess, type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
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

export const isOpenMpi = /open mpi|open-mpi/i.test(version ?? '')

/** Of each rank. Open MPI does not start as root unless told to. */
export const rankEnv = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1', DDPM_NUM_THREADS: '1' }

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
  const own = isOpenMpi ? ['--oversubscribe'] : [] // it counts cores
  const child = spawn(
    'mpirun',
    [...own, '-n', String(ranks), process.execPath, path.resolve(__dirname, script), ...args.map(String)],
    { env: { ...process.env, ...rankEnv, ...env } },
  )
  return { pid: child.pid!, ended: endOf(child) }
}

/** A port that nobody has at present. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** The same without a launcher, told by the environment where rank 0 is, as torchrun does. `env` of a rank. */
export async function launchByEnvironment(
  ranks: number,
  script: string,
  args: readonly (string | number)[] = [],
  env: (rank: number) => Record<string, string | undefined> = () => ({}),
): Promise<Ended[]> {
  const port = await freePort()
  const all = Array.from({ length: ranks }, (_, rank) => {
    const told = { MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port), RANK: String(rank), WORLD_SIZE: String(ranks) }
    const child = spawn(process.execPath, [path.resolve(__dirname, script), ...args.map(String)], {
      env: { ...process.env, DDPM_NUM_THREADS: '1', ...told, ...env(rank) },
    })
    return endOf(child)
  })
  return Promise.all(all)
}

function endOf(child: ChildProcessWithoutNullStreams): Promise<Ended> {
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => {
      output += data
    })
  }
  running.add(child)
  child.on('close', () => running.delete(child))
  return new Promise<Ended>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** What a child wrote as one line of JSON. */
export function resultOf<T>({ code, output }: Ended): T {
  const line = output.split('\n').find((text) => text.startsWith('{'))
  if (code === 0 && line) return JSON.parse(line) as T
  throw new Error(`it ended with ${code}: ${output.slice(-4000)}`)
}
