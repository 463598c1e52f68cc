/** The command line with calls of the file system that fail: shim.c. */
import { execFileSync, spawn } from 'node:child_process'
import { constants } from 'node:os'
import path from 'node:path'
import { ended } from './ended'

const source = path.join(__dirname, '..', '..', '..', '..', 'test', 'attack', 'shim.c')
const main = path.join(__dirname, '..', '..', '..', 'lib', 'cli', 'main.js')
const hang = 120_000

/** Builds the library into `folder`. Says why it can't. */
export function buildShim(folder: string): { readonly library: string } | { readonly missing: string } {
  if (process.platform !== 'linux') return { missing: 'calls are made to fail on Linux only' }
  const library = path.join(folder, 'shim.so')
  try {
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source, '-ldl'], { stdio: 'pipe' })
    return { library }
  } catch (error) {
    return { missing: `shim.c can't be built: ${(error as Error).message.split('\n')[0]}` }
  }
}

export interface Fault {
  /** From 1; 0: none. */
  readonly call: number
  /** 'kill': the process ends in the call. */
  readonly how: 'ENOSPC' | 'EIO' | 'EMFILE' | 'kill'
  /** All calls from that one on fail. */
  readonly lasting?: boolean
}

export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
  /** Counted calls: 'rename /run/lock'. */
  readonly calls: readonly string[]
}

/** Runs `ddpm`; of the calls on `folder`, the one of the fault fails. */
export async function runWithFault(
  library: string,
  folder: string,
  args: readonly string[],
  fault: Fault,
): Promise<Ran> {
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: {
      ...process.env,
      DDPM_NUM_THREADS: '1',
      UV_USE_IO_URING: '0', // its calls are not seen
      LD_PRELOAD: library,
      ATTACK_FOLDER: folder,
      ATTACK_LOG: '3',
      ATTACK_NTH: String(fault.call),
      ATTACK_LAST: String(fault.lasting ? 1e9 : fault.call),
      ATTACK_ERRNO: String(fault.how === 'kill' ? 0 : constants.errno[fault.how]),
    },
  })
  const { code, signal, outputs } = await ended(child, hang, 'SIGABRT')
  const [, stdout, stderr, log] = outputs
  const calls = log.split('\n').map((line) => line.slice(line.indexOf(' ') + 1))
  return { code, signal, stdout, stderr, calls: calls.slice(0, -1) }
}
