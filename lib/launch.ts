/** What those who start processes tell each of them, by its environment. */
import { DiffusionError } from './errors'

/** How many a launcher of MPI started together; undefined where none did. */
export function mpiSize(): number | undefined {
  const { OMPI_COMM_WORLD_SIZE, PMI_SIZE, SLURM_STEP_NUM_TASKS, SLURM_PROCID } = process.env
  const slurm = SLURM_PROCID === undefined ? undefined : SLURM_STEP_NUM_TASKS
  const size = Number(OMPI_COMM_WORLD_SIZE ?? PMI_SIZE ?? slurm)
  return Number.isInteger(size) && size > 0 ? size : undefined
}

/** Where processes without a launcher of MPI meet. */
export interface Meeting {
  /** Of rank 0. */
  readonly address: string
  readonly port: number
  readonly rank: number
  readonly size: number
}

const names = ['MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE'] as const

/** Those of the variables by which torchrun tells it that are not set. */
export function notTold(): readonly string[] {
  return names.filter((name) => process.env[name] === undefined)
}

/** By MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE; undefined where one is not set. Throws `invalid-argument` for wrong ones. */
export function meeting(): Meeting | undefined {
  if (notTold().length > 0) return undefined
  const size = whole('WORLD_SIZE', 1, 2 ** 20)
  // torchrun serves something of its own at that port, and says so.
  const own = process.env.TORCHELASTIC_USE_AGENT_STORE === 'True' ? 1 : 0
  return {
    address: process.env.MASTER_ADDR!,
    port: whole('MASTER_PORT', 1, 65535 - own) + own,
    rank: whole('RANK', 0, size - 1),
    size,
  }
}

/** Of the GPUs that this process sees, the one that is its own among the processes of its machine: the first where it is alone. */
export function ownGpu(): number {
  if ((mpiSize() ?? meeting()?.size ?? 1) === 1) return 0
  const { CUDA_VISIBLE_DEVICES: visible } = process.env
  if (visible !== undefined && !visible.includes(',')) return 0 // it was given one
  const told = ['LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID', 'SLURM_LOCALID']
  const name = told.find((each) => process.env[each] !== undefined)
  return name === undefined ? 0 : whole(name, 0, 1023)
}

function whole(name: string, least: number, most: number): number {
  const text = process.env[name]!
  const value = Number(text)
  if (text.trim() !== '' && Number.isInteger(value) && value >= least && value <= most) return value
  const expected = `an integer from ${least} to ${most}`
  throw new DiffusionError('invalid-argument', `${name}: expected ${expected}, received '${text}'`, {
    argument: name,
    expected,
    received: text,
  })
}
