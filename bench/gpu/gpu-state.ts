/** What a GPU's times depend on, as nvidia-smi tells it. */
import { spawnSync } from 'node:child_process'

const fields = [
  'driver_version',
  'pstate',
  'clocks.sm',
  'clocks.max.sm',
  'clocks.mem',
  'power.draw',
  'power.limit',
  'temperature.gpu',
]

/** 'driver_version 580.65.06, pstate P0, clocks.sm 1980 MHz, ...' of 'cuda' or 'cuda:1'; or why it is not known. */
export function gpuState(device: string, nvidiaSmi = 'nvidia-smi'): string {
  const match = /^cuda(?::(\d+))?$/.exec(device)
  if (!match) return `${device} is no GPU`
  const index = match[1] ?? '0'
  const query = [`--id=${index}`, `--query-gpu=${fields.join(',')}`, '--format=csv,noheader']
  const { status, stdout, error } = spawnSync(nvidiaSmi, query, { encoding: 'utf8', timeout: 20_000 })
  if (error || status !== 0) return `not known (${error?.message ?? `nvidia-smi: exit code ${status}`})`
  const values = stdout.trim().split(/,\s*/)
  return fields.map((field, i) => `${field} ${values[i]}`).join(', ')
}
