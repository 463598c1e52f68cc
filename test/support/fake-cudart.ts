/** The CUDA library on a stand-in for the CUDA runtime (test/fake-cudart): it launches, captures and allocates, and computes nothing. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { native } from '../../lib/native'
import { buildFolder } from './build-folder'

const built = path.join(buildFolder, 'fake-cudart')
const library = path.join(built, 'ddpm_cuda.so')

/** Ends with the violation, or prints the status of a call: misused CASE. */
export const misused = path.join(built, 'misused')

export interface StandInSettings {
  devices?: number
  /** Compute capability, e.g. 90. */
  architecture?: number
  /** Bytes of each device. */
  memory?: number
  pools?: boolean
  /** See test/fake-cudart/faults.h. */
  fail?: string
}

export interface Ended {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  /** What the stand-in counted: calls by kind, launches by kernel. */
  report: { counts: Record<string, number>; kernels: Record<string, number> }
}

export class StandIn {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  /** Skips the test or suite, with the reason, where there is none. */
  static make(context: Mocha.Context): StandIn {
    const why = whyNot()
    if (why !== undefined) {
      console.log(`    Not tested: ${why}`)
      context.skip()
    }
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-stand-in-'))
    const release = path.join(folder, 'build', 'Release')
    mkdirSync(release, { recursive: true })
    for (const name of ['ddpm_native.node', 'ddpm_reference.so']) {
      copyFileSync(path.join(buildFolder, name), path.join(release, name))
    }
    copyFileSync(library, path.join(release, 'ddpm_cuda.so'))
    const driver = path.join(__dirname, '..', '..', '..', 'test', 'native', 'fake-driver.c')
    const compiled = spawnSync('cc', ['-shared', '-fPIC', '-o', path.join(folder, 'libcuda.so.1'), driver])
    if (compiled.status !== 0) throw new Error(`${driver} was not compiled: ${compiled.stderr}`)
    return new StandIn(folder)
  }

  /** What NCCL's stand-in puts its work on. */
  get library(): string {
    return path.join(this.#folder, 'build', 'Release', 'ddpm_cuda.so')
  }

  /** Of a process in which 'cuda' is the stand-in; its counts go to the file `report`. */
  environment(report: string, settings: StandInSettings = {}): Record<string, string> {
    const given: Record<string, string | number | undefined> = {
      FAKE_CUDART_DEVICES: settings.devices,
      FAKE_CUDART_ARCH: settings.architecture,
      FAKE_CUDART_MEMORY: settings.memory,
      FAKE_CUDART_POOLS: settings.pools === false ? 0 : undefined,
      FAKE_CUDART_FAIL: settings.fail,
    }
    return {
      LD_LIBRARY_PATH: this.#folder,
      DDPM_NATIVE_PREBUILD: this.#folder,
      DDPM_CUDNN: 'off',
      DDPM_TUNE_CACHE: 'off',
      FAKE_CUDART_REPORT: report,
      ...Object.fromEntries(Object.entries(given).flatMap(([k, v]) => (v === undefined ? [] : [[k, String(v)]]))),
    }
  }

  /** Node with these arguments, where 'cuda' is the stand-in. */
  run(args: readonly string[], settings: StandInSettings = {}, env: NodeJS.ProcessEnv = {}): Ended {
    const report = path.join(this.#folder, 'report.json')
    rmSync(report, { force: true })
    const { DDPM_DEBUG: _, DDPM_TEST_DEVICE: __, ...rest } = process.env
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      timeout: 300_000,
      maxBuffer: 1 << 28,
      env: { ...rest, ...this.environment(report, settings), ...env },
    })
    return { status, signal, stdout, stderr, report: reportIn(report) }
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** What a process that has ended wrote there. */
export function reportIn(file: string): Ended['report'] {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : { counts: {}, kernels: {} }
}

function whyNot(): string | undefined {
  if (!existsSync(library)) return 'there is no CUDA library on the stand-in; npm run build:cuda builds it'
  try {
    native.openDevice('cuda', 0, 0).close()
  } catch (error) {
    // Built before a change of kernels/backend.h.
    if (/does not serve version/.test((error as Error).message))
      return `${(error as Error).message}; npm run build:cuda`
  }
  return undefined
}
