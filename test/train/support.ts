/** Small data and small models for the training's tests. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import type { StepMetrics } from '../../lib/train/metrics'
import type { TrainOptions } from '../../lib/train/options'
import type { TrainHooks } from '../../lib/trainer/hooks'

/** A folder that is removed after the tests of the surrounding `describe`. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-test-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** `count` PNGs of `size` with a coloured disc each. */
export async function writeImages(folder: string, count: number, size = 12): Promise<void> {
  mkdirSync(folder, { recursive: true })
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const data = new Uint8Array(size * size * 3)
      const radius = 2 + (i % 4)
      for (let p = 0; p < size * size; p++) {
        const inside = Math.hypot((p % size) - size / 2, Math.floor(p / size) - size / 2) < radius
        for (let c = 0; c < 3; c++) data[p * 3 + c] = inside ? (i * (37 + 20 * c)) % 256 : 255
      }
      const image = sharp(data, { raw: { width: size, height: size, channels: 3 } })
      await image.png().toFile(path.join(folder, `${String(i).padStart(4, '0')}.png`))
    }),
  )
}

/** A UNet of 8x8 that steps in milliseconds. */
export const tinyModel = {
  timesteps: 20,
  unetConfig: {
    imageSize: 8,
    modelChannels: 32,
    channelMult: [1],
    numResBlocks: 1,
    attentionResolutions: [],
    dropout: 0.1,
  },
}

export function tinyTraining(data: string, out: string, options: Partial<TrainOptions> = {}): TrainOptions {
  const plan = { steps: 6, batchSize: 4, warmup: 3, checkpointEvery: 100, sampleEvery: 0, device: 'cpu' }
  return { data, out, model: tinyModel, ...plan, ...options }
}

/** The same on the command line. */
export const tinyFlags = (
  '--size 8 --model-channels 32 --channel-mult 1 --res-blocks 1 --attention none --dropout 0.1 --timesteps 20 ' +
  '--batch 4 --warmup 3 --sample-every 0 --device cpu'
).split(' ')

export function readMetrics(run: string): StepMetrics[] {
  const text = readFileSync(path.join(run, 'metrics.jsonl'), 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
}

/** The lines of held-out losses, without their times. */
export function heldOutOf(run: string): Record<string, number>[] {
  const lines = readMetrics(run).filter((line) => 'val/loss' in line)
  return lines.map(({ time, ...rest }) => rest as unknown as Record<string, number>)
}

/** The lines of steps. */
export function stepsOf(run: string): StepMetrics[] {
  return readMetrics(run).filter((line) => 'loss' in line)
}

/** Hooks that end a training after a step. */
export function stopAt(at: number): TrainHooks {
  const controller = new AbortController()
  return { signal: controller.signal, onStep: ({ step }) => void (step === at && controller.abort()) }
}

/** The losses and norms, without times. */
export function numbers(metrics: readonly StepMetrics[]) {
  return metrics.map(({ step, loss, loss_simple, loss_vlb, gradNorm, lr }) => [
    step,
    loss,
    loss_simple,
    loss_vlb,
    gradNorm,
    lr,
  ])
}

export const cli = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')

export function startCli(args: readonly string[], env: Record<string, string> = {}, cwd?: string): ChildProcess {
  return startScript(cli, args, env, cwd)
}

export function startScript(
  script: string,
  args: readonly string[],
  env: Record<string, string>,
  cwd?: string,
): ChildProcess {
  return spawn(process.execPath, [script, ...args], {
    cwd,
    env: { ...process.env, DDPM_NUM_THREADS: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Resolves when the process has ended. `onOutput` sees all of stdout so far at each change. */
export function ended(child: ChildProcess, onOutput: (stdout: string) => void = () => {}): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout!.on('data', (chunk) => {
    stdout += chunk
    onOutput(stdout)
  })
  child.stderr!.on('data', (chunk) => {
    stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}

export function runCli(args: readonly string[], env?: Record<string, string>, cwd?: string): Promise<Ended> {
  return ended(startCli(args, env, cwd))
}

export function runScript(script: string, args: readonly string[], cwd: string): Promise<Ended> {
  return ended(startScript(script, args, {}, cwd))
}
