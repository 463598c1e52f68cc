import assert from 'node:assert/strict'
import { DiffusionError, shardOf } from '../../lib/index'

const variables = [
  'SLURM_ARRAY_TASK_ID',
  'SLURM_ARRAY_TASK_COUNT',
  'SLURM_ARRAY_TASK_MIN',
  'SLURM_ARRAY_TASK_MAX',
  'JOB_COMPLETION_INDEX',
  'OMPI_COMM_WORLD_RANK',
  'OMPI_COMM_WORLD_SIZE',
  'PMI_RANK',
  'PMI_SIZE',
  'RANK',
  'WORLD_SIZE',
]

/** `ids` of a Slurm array, as Slurm tells the task `id` of them. */
function slurm(id: number, ids: readonly number[]): Record<string, string> {
  const [min, max] = [Math.min(...ids), Math.max(...ids)]
  const told = { ID: id, COUNT: ids.length, MIN: min, MAX: max }
  return Object.fromEntries(Object.entries(told).map(([name, value]) => [`SLURM_ARRAY_TASK_${name}`, String(value)]))
}

describe('shardOf', () => {
  const before = Object.fromEntries(variables.map((name) => [name, process.env[name]]))
  const clear = () => {
    for (const name of variables) delete process.env[name]
  }
  beforeEach(clear)
  after(() => {
    clear()
    for (const [name, value] of Object.entries(before)) if (value !== undefined) process.env[name] = value
  })

  it('divides all images into whole batches, in order', () => {
    for (const [count, batchSize, total] of [
      [50_000, 64, 16],
      [11, 2, 3],
      [16, 1, 16],
      [7, 7, 1],
      [100, 3, 34],
      [2 ** 31 - 1, 16, 1000],
    ]) {
      const shards = Array.from({ length: total }, (_, i) => shardOf({ count, batchSize, shard: `${i + 1}/${total}` }))
      let next = 0
      for (const [i, { index, first, ...shard }] of shards.entries()) {
        assert.deepEqual([index, shard.total, first], [i + 1, total, next])
        assert.equal(first % batchSize, 0)
        assert.ok(shard.count > 0)
        next += shard.count
      }
      assert.equal(next, count)
      const batches = shards.map((shard) => Math.ceil(shard.count / batchSize))
      assert.ok(Math.max(...batches) - Math.min(...batches) <= 1)
    }
  })

  it('takes batches of 16 where nothing else is said', () => {
    assert.deepEqual(shardOf({ count: 40, shard: '2/2' }), { index: 2, total: 2, first: 16, count: 24 })
  })

  it('takes the tasks of a Slurm array, from 0 or from 1', () => {
    for (const ids of [
      [0, 1, 2],
      [1, 2, 3],
    ]) {
      for (const shard of ['auto', 'auto/3']) {
        Object.assign(process.env, slurm(ids[1], ids))
        assert.equal(shardOf({ count: 48, shard }).index, 2)
        Object.assign(process.env, slurm(ids[2], ids))
        assert.deepEqual(shardOf({ count: 48, shard }), { index: 3, total: 3, first: 32, count: 16 })
      }
    }
  })

  it('takes the index of a Kubernetes Job, of as many as are said', () => {
    process.env.JOB_COMPLETION_INDEX = '0'
    assert.deepEqual(shardOf({ count: 48, shard: 'auto/3' }), { index: 1, total: 3, first: 0, count: 16 })
    process.env.JOB_COMPLETION_INDEX = '2'
    assert.equal(shardOf({ count: 48, shard: 'auto/3' }).index, 3)
  })

  it('takes the rank that a launcher gives', () => {
    for (const [rank, size] of [
      ['OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'],
      ['PMI_RANK', 'PMI_SIZE'],
      ['RANK', 'WORLD_SIZE'],
    ]) {
      Object.assign(process.env, { [rank]: '1', [size]: '3' })
      for (const shard of ['auto', 'auto/3'])
        assert.deepEqual(shardOf({ count: 48, shard }), { index: 2, total: 3, first: 16, count: 16 })
      refused({ count: 48, shard: 'auto/2' }, new RegExp(`${rank} is 1 of ${size} 3, and not one of 2`))
      process.env[rank] = '3'
      refused({ count: 48, shard: 'auto' }, new RegExp(`${rank} is 3 of ${size} 3$`))
      process.env.JOB_COMPLETION_INDEX = '1'
      refused({ count: 48, shard: 'auto/3' }, new RegExp(`JOB_COMPLETION_INDEX and ${rank} are both set`))
      clear()
    }
  })

  it('looks at the environment only when it is asked to', () => {
    Object.assign(process.env, slurm(2, [1, 2, 3]), { JOB_COMPLETION_INDEX: 'x' })
    assert.deepEqual(shardOf({ count: 64, shard: '4/4' }), { index: 4, total: 4, first: 48, count: 16 })
  })

  const refused = (options: Parameters<typeof shardOf>[0], pattern: RegExp, argument = 'shard') =>
    assert.throws(
      () => shardOf(options),
      (error) => {
        assert.ok(error instanceof DiffusionError)
        assert.match(error.message, pattern)
        return error.code === 'invalid-argument' && error.argument === argument
      },
    )

  it('refuses what is no shard', () => {
    for (const shard of ['4/3', '3', '1/0', '-1/3', '1.5/3', '1/3/5', '', 'auto/0', 'auto/x', '1/10000000'])
      refused({ count: 100, shard }, /^shard: expected one such as 3\/16, the third of 16, auto or auto\/16, got/)
    refused({ count: 100, shard: '0/3' }, /\(they are counted from 1\), got '0\/3'$/)
    refused({ count: 100, shard: 3 as unknown as string }, /^shard: expected a string/)
    refused({ count: 0, shard: '1/1' }, /^count: expected an integer of at least 1/, 'count')
    refused(
      { count: 100, shard: '1/16' },
      /100 images are 7 batches of 16, too few for 16 shards: batches of at most 6 /,
    )
    refused({ count: 3, shard: '1/4', batchSize: 1 }, /3 images are 3 batches of 1, too few for 4 shards: take fewer/)
  })

  it('refuses an environment that says no shard, or not which one', () => {
    const count = 100
    refused({ count, shard: 'auto' }, /neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set/)
    process.env.JOB_COMPLETION_INDEX = '1'
    refused({ count, shard: 'auto' }, /JOB_COMPLETION_INDEX does not say of how many: auto\/16 does/)
    process.env.JOB_COMPLETION_INDEX = '3'
    refused({ count, shard: 'auto/3' }, /JOB_COMPLETION_INDEX is 3, and shards of 3 are 0-2/)
    Object.assign(process.env, slurm(1, [1, 2, 3]))
    refused({ count, shard: 'auto/3' }, /both set/)
    clear()
    process.env.SLURM_ARRAY_TASK_ID = '1'
    refused({ count, shard: 'auto' }, /without SLURM_ARRAY_TASK_COUNT, _MIN and _MAX/)
    process.env.SLURM_ARRAY_TASK_ID = 'one'
    refused({ count, shard: 'auto' }, /SLURM_ARRAY_TASK_ID is 'one', no number/)
  })

  it('refuses a Slurm array of some tasks only, which has another count', () => {
    for (const [ids, shard] of [
      [[3, 7], 'auto'],
      [[3, 4], 'auto'],
      [[5], 'auto'],
      [[0, 2, 4], 'auto'],
      [[1, 2], 'auto/16'],
      [[3, 7], 'auto/16'],
    ] as const) {
      Object.assign(process.env, slurm(ids[0], ids))
      refused({ count: 1000, shard }, /^shard: auto: expected an array of ids .* \$SLURM_ARRAY_TASK_ID\/16 says which/)
    }
  })
})
