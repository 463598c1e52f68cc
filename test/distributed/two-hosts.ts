/** Two hosts with a cable between them (test/cable) and a rank of Open MPI on each; or why there are none. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { buildFolder } from '../support/build-folder'
import { temporaryFolder } from '../train/support'
import { type Ended, isOpenMpi, rankEnv, unlaunchable } from './launch'

const cable = path.join(buildFolder, 'cable')

/** Why there can't be two hosts. */
export function unreachable(): string | undefined {
  if (unlaunchable) return unlaunchable
  if (!isOpenMpi) return 'mpirun is not that of Open MPI'
  const tried = spawnSync('timeout', ['0.2', cable, '0', '0'], { encoding: 'utf8' })
  return tried.status === 124 ? undefined : `there can't be hosts of namespaces here: ${tried.stderr || tried.error}`
}

export class TwoHosts {
  readonly #cable: ChildProcess
  /** By which nsenter is on each. */
  readonly #places: readonly string[]
  readonly #folder = temporaryFolder()

  static async open(delayMs: number, lossPercent: number): Promise<TwoHosts> {
    const child = spawn(cable, [String(delayMs), String(lossPercent)], { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    for await (const data of child.stdout) {
      text += data
      if (text.split('\n').length > 2) break
    }
    return new TwoHosts(child, text.trim().split('\n'))
  }

  private constructor(child: ChildProcess, places: readonly string[]) {
    this.#cable = child
    this.#places = places
  }

  /** A rank on each, of a compiled script beside this file. */
  launch(script: string, args: readonly (string | number)[] = [], env: Record<string, string> = {}): void {
    const write = (name: string, text: string) => {
      const file = path.join(this.#folder, name)
      writeFileSync(file, `#!/bin/sh\n${text}\n`)
      chmodSync(file, 0o755)
      return file
    }
    // What ssh would do. Output and status are kept where they are, since a cable may be cut.
    const agent = write('agent', `shift; exec nsenter ${this.#places[1]} sh -c "$*"`)
    const rank = write(
      'rank',
      `cd ${this.#folder}; "$@" > output.$OMPI_COMM_WORLD_RANK 2>&1; echo $? > part; mv part code.$OMPI_COMM_WORLD_RANK`,
    )
    const all = { ...rankEnv, ...env }
    const mca = Object.entries({
      plm_rsh_agent: agent,
      btl: 'tcp,self',
      btl_tcp_if_include: 'cable',
      oob_tcp_if_include: 'cable',
    }).flatMap(([name, value]) => ['--mca', name, value])
    const variables = Object.keys(all).flatMap((name) => ['-x', name])
    const command = ['--host', '10.0.0.1,10.0.0.2', '-n', '2', rank, process.execPath, path.join(__dirname, script)]
    spawn('nsenter', [...this.#places[0].split(' '), 'mpirun', ...mca, ...variables, ...command, ...args.map(String)], {
      env: { ...process.env, ...all },
      stdio: 'ignore',
    })
  }

  /** What that rank has written so far. */
  outputOf(rank: number): string {
    const file = path.join(this.#folder, `output.${rank}`)
    return existsSync(file) ? readFileSync(file, 'utf8') : ''
  }

  /** When both ranks have ended by themselves. */
  async ended(): Promise<Ended[]> {
    const files = [0, 1].map((rank) => path.join(this.#folder, `code.${rank}`))
    while (!files.every((file) => existsSync(file))) await setTimeout(50)
    return files.map((file, rank) => ({ code: Number(readFileSync(file, 'utf8')), output: this.outputOf(rank) }))
  }

  cut(): void {
    this.#cable.kill('SIGUSR1')
  }

  /** Ends all that runs there: a launcher whose cable is cut may stay. */
  close(): void {
    const spaceOf = (file: string) => {
      try {
        return readlinkSync(file)
      } catch {
        return undefined // it has ended, or is not ours
      }
    }
    const spaces = this.#places.map((place) => spaceOf(/--net=(\S+)/.exec(place)![1]))
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && name !== String(this.#cable.pid))) {
      if (spaces.includes(spaceOf(`/proc/${pid}/ns/net`))) process.kill(Number(pid), 'SIGKILL')
    }
    this.#cable.kill()
  }
}
