/** Parts of a whole that are computed by processes which know nothing of one another. */
import { DiffusionError, invalidArgument } from './errors'
import { integer, parseOptions, required, type SchemaOf, value } from './options'

/** One of `total` parts. */
export interface Shard {
  /** Which, counted from 1. */
  readonly index: number
  readonly total: number
}

/** Of shardOf. */
export interface ShardOptions {
  /** Images of the whole. Required. */
  count: number
  /**
   * Which part: '3/16', the third of 16, counted from 1; or 'auto', by the environment: Slurm's SLURM_ARRAY_TASK_ID of
   * SLURM_ARRAY_TASK_COUNT (ids may begin at 0 or 1), or the rank that a launcher gives each process (mpirun's OMPI_COMM_WORLD_RANK of
   * _SIZE, PMI_RANK of PMI_SIZE; torchrun's RANK of WORLD_SIZE); or 'auto/16', which is for Kubernetes' JOB_COMPLETION_INDEX, too. Required.
   */
  shard: string
  /** Images in a batch. A part is of whole batches of the whole, so that each is computed as one process would. Default 16. */
  batchSize?: number
}

/** What a shard has of the whole. */
export interface ShardSpan extends Shard {
  /** Its first image, counted from 0. */
  readonly first: number
  /** How many. */
  readonly count: number
}

const schema = {
  count: required(integer(undefined, { min: 1 })),
  shard: required(value<string>('a string such as 3/16', (v) => typeof v === 'string')),
  batchSize: integer(16, { min: 1 }),
} satisfies SchemaOf<ShardOptions>

/**
 * The images of one shard: `const { first, count } = shardOf({ count: 50_000, shard: '3/16' })`, of which a batch at i is
 * `ddpm.sample({ batchSize, sampleOffset: first + i, seed })`. The shards of a whole are contiguous, in order, and differ by one batch
 * at most. Throws `invalid-argument` for a shard that there is not, for fewer batches than shards, and where 'auto' finds no shard in
 * the environment, or more than one.
 */
export function shardOf(options: ShardOptions): ShardSpan {
  const { count, shard, batchSize } = parseOptions('shardOf', options, schema)
  const { index, total } = parseShard(shard)
  const batches = Math.ceil(count / batchSize)
  if (batches < total) {
    const most = Math.floor(count / total)
    const advice = most > 0 ? `batches of at most ${most} would do` : 'take fewer shards'
    const problem = `${count} images are ${batches} ${batches === 1 ? 'batch' : 'batches'} of ${batchSize}, too few for ${total} shards: ${advice}`
    throw new DiffusionError('invalid-argument', `shard: ${problem}`, { argument: 'shard', received: shard })
  }
  const begin = (i: number) => Math.min(count, Math.floor((i * batches) / total) * batchSize)
  const first = begin(index - 1)
  return { index, total, first, count: begin(index) - first }
}

/** As many as are worth a list. */
export const maxTotal = 1_000_000

/** Throws `invalid-argument`. */
function parseShard(text: string): Shard {
  const [, given] = /^auto(?:\/(\d{1,7}))?$/.exec(text) ?? []
  const total = given === undefined ? undefined : Number(given)
  if (text === 'auto' || (total && total <= maxTotal)) return shardOfEnvironment(total)
  const [index, of] = (/^(\d{1,7})\/(\d{1,7})$/.exec(text) ?? []).slice(1).map(Number)
  if (index >= 1 && index <= of && of <= maxTotal) return { index, total: of }
  const counted = index === 0 ? ' (they are counted from 1)' : ''
  throw invalidArgument('shard', `one such as 3/16, the third of 16, auto or auto/16${counted}`, text)
}

/** What launchers tell each process, and of how many; counted from 0. */
const launchers = [
  ['OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'],
  ['PMI_RANK', 'PMI_SIZE'],
  ['RANK', 'WORLD_SIZE'],
] as const

/**
 * By what Slurm tells the tasks of an array, Kubernetes the pods of an indexed Job, which does not say how many there are, and a launcher
 * its processes.
 */
function shardOfEnvironment(total: number | undefined): Shard {
  const launcher = launchers.find((names) => names.every((name) => numberOf(name) !== undefined))
  const [slurm, kubernetes] = ['SLURM_ARRAY_TASK_ID', 'JOB_COMPLETION_INDEX'].map(numberOf)
  const set = [
    ...(slurm === undefined ? [] : ['SLURM_ARRAY_TASK_ID']),
    ...(kubernetes === undefined ? [] : ['JOB_COMPLETION_INDEX']),
    ...(launcher ? [launcher[0]] : []),
  ]
  if (set.length > 1) throw unclear(`${set.join(' and ')} are both set: say which shard, such as 3/16`)
  if (slurm !== undefined) return ofSlurm(slurm, total)
  if (launcher) return ofLauncher(launcher, total)
  if (kubernetes === undefined) {
    const ranks = launchers.map(([rank]) => rank).join(', ')
    throw unclear(`auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set, nor a launcher's ${ranks}`)
  }
  if (total === undefined) throw unclear('auto: JOB_COMPLETION_INDEX does not say of how many: auto/16 does')
  if (kubernetes >= total)
    throw unclear(`JOB_COMPLETION_INDEX is ${kubernetes}, and shards of ${total} are 0-${total - 1}`)
  return { index: kubernetes + 1, total }
}

function ofLauncher([rank, size]: (typeof launchers)[number], total: number | undefined): Shard {
  const [index, count] = [numberOf(rank)!, numberOf(size)!]
  if (index >= count || (total ?? count) !== count)
    throw unclear(
      `auto: ${rank} is ${index} of ${size} ${count}${total === undefined ? '' : `, and not one of ${total}`}`,
    )
  return { index: index + 1, total: count }
}

/**
 * An array of some ids only, as it is submitted again for tasks that failed, has a count of its own: what it says would be another
 * division.
 */
function ofSlurm(id: number, total: number | undefined): Shard {
  const [count, min, max] = ['COUNT', 'MIN', 'MAX'].map((name) => numberOf(`SLURM_ARRAY_TASK_${name}`))
  if (count === undefined || min === undefined || max === undefined)
    throw unclear('auto: SLURM_ARRAY_TASK_ID is set without SLURM_ARRAY_TASK_COUNT, _MIN and _MAX')
  const whole = (min === 0 || min === 1) && max - min + 1 === count && id >= min && id <= max
  if (!whole || (total ?? count) !== count) {
    const expected = total === undefined ? 'all from 0 or 1 on' : `${total}, from 0 or 1 on`
    const advice = `where ids begin at 1, $SLURM_ARRAY_TASK_ID/${total ?? 16} says which shard each is`
    throw unclear(`auto: expected an array of ids that are ${expected}, got ${count} of ${min}-${max}; ${advice}`)
  }
  return { index: id - min + 1, total: count }
}

function numberOf(name: string): number | undefined {
  const text = process.env[name]
  if (text === undefined || text === '') return undefined
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw unclear(`${name} is '${text}', no number`)
}

function unclear(problem: string): DiffusionError {
  return new DiffusionError('invalid-argument', `shard: ${problem}`, { argument: 'shard' })
}
