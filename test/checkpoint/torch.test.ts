// The reader of PyTorch's files, on files that torch.save wrote, and on ones that were made to do harm.
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { Global, TorchTensor, type TorchValue, withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { checkpointOf, storage, string, tensor } from '../support/torch-file'

const folder = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'checkpoints')
const fixture = (name: string) => path.join(folder, name)

type Dict = ReadonlyMap<TorchValue, TorchValue>
const dtypes: Record<string, string> = {
  float16: 'F16',
  bfloat16: 'BF16',
  float32: 'F32',
  float64: 'F64',
  int64: 'I64',
  int32: 'I32',
  int16: 'I16',
  int8: 'I8',
  uint8: 'U8',
  bool: 'BOOL',
}

async function expectedOf(name: string) {
  const { tensors, metadata } = await readSafetensors(fixture(`${name}.expected.safetensors`))
  return { tensors, config: JSON.parse(metadata.config) }
}

const numbers = (data: ArrayLike<number | bigint>) => Array.from(data, Number)

/** Every value of a checkpoint equals the expected file's `param/`. */
async function checkStateDict(file: string, expected: string): Promise<void> {
  const { tensors, others } = await readStateDictFile(fixture(file))
  const { tensors: wanted, config } = await expectedOf(expected)
  assert.deepEqual(others, [])
  assert.deepEqual(Object.keys(tensors).sort(), Object.keys(config.tensors).sort())
  for (const [name, { dtype, shape }] of Object.entries<{ dtype: string; shape: number[] }>(config.tensors)) {
    assert.equal(tensors[name].dtype, dtypes[dtype], name)
    assert.deepEqual(tensors[name].shape, shape, name)
    assert.deepEqual(numbers(tensors[name].data), numbers(wanted[`param/${name}`].data), name)
  }
}

const rootOf = (bytes: Uint8Array) => withTorchFile(bytes, async ({ value }) => value)
const tensorOf = (bytes: Uint8Array) => withTorchFile(bytes, async ({ value, load }) => load(value as TorchTensor))
const refused = (bytes: Uint8Array, message: RegExp) =>
  assert.rejects(tensorOf(bytes), { name: 'DiffusionError', code: 'bad-file', message })

describe('PyTorch checkpoints', () => {
  for (const [file, expected] of [
    ['ddpm_tiny_legacy.ckpt', 'ddpm_tiny_legacy'],
    ['bare_state_dict.ckpt', 'ddpm_tiny_legacy'],
    ['bare_state_dict_proto4.ckpt', 'ddpm_tiny_legacy'],
    ['ddpm_tiny_fp16.ckpt', 'ddpm_tiny_fp16'],
    ['trainer_like.ckpt', 'trainer_like'],
    ['views_zip.ckpt', 'views'],
    ['views_legacy.ckpt', 'views'],
  ]) {
    it(`${file}: every tensor`, () => checkStateDict(file, expected))
  }

  it('ddpm_unet.ckpt: the sums of every tensor, and the counters', async () => {
    const { tensors, counters } = await readStateDictFile(fixture('ddpm_unet.ckpt'))
    const { tensors: wanted, config } = await expectedOf('ddpm_unet')
    assert.deepEqual(counters, { global_step: config.global_step, epoch: config.epoch })
    assert.deepEqual(Object.keys(tensors).sort(), Object.keys(config.tensors).sort())
    for (const [name, { data }] of Object.entries(tensors)) {
      const sum = numbers(data).reduce((total, v) => total + v, 0)
      const magnitude = numbers(data).reduce((total, v) => total + Math.abs(v), 0)
      assert.ok(Math.abs(sum - config.sums[name]) <= 1e-9 * (1 + magnitude), name)
      assert.ok(Math.abs(magnitude - config.abs_sums[name]) <= 1e-9 * (1 + magnitude), name)
      const exact = wanted[`param/${name}`]
      if (exact) assert.deepEqual(numbers(data), numbers(exact.data), name)
    }
  })

  it('one object under two names stays one', async () => {
    for (const name of ['views_zip.ckpt', 'views_legacy.ckpt']) {
      await withTorchFile(fixture(name), async ({ value }) => {
        const dict = (value as Dict).get('state_dict') as Dict
        assert.ok(dict.get('float.param') instanceof TorchTensor)
        assert.equal(dict.get('float.param'), dict.get('float.param_alias'))
      })
    }
  })

  it('a tensor that is no dict', async () => {
    const { dtype, shape, data } = await withTorchFile(fixture('bare_tensor.pt'), async ({ value, load }) =>
      load(value as TorchTensor),
    )
    assert.deepEqual([dtype, shape, [...data]], ['F32', [2, 3], [0, 1, 2, 3, 4, 5]])
    await assert.rejects(readStateDictFile(fixture('bare_tensor.pt')), { code: 'bad-file', message: /no dict/ })
  })

  it('trainer_like.ckpt: optimizer states, Python values, a class that is only named', async () => {
    const { tensors: wanted, config } = await expectedOf('trainer_like')
    await withTorchFile(fixture('trainer_like.ckpt'), async ({ value, load }) => {
      const root = value as Dict
      const hyper = root.get('hyper_parameters') as Dict
      const parameters = config.hyper_parameters
      for (const [name, expected] of Object.entries(parameters)) {
        assert.deepEqual(hyper.get(name), name === 'big' ? BigInt(parameters.big) : expected, name)
      }
      assert.ok(Object.isFrozen(hyper.get('tuple')))
      const [[callback, state]] = [...(root.get('callbacks') as Dict)]
      assert.ok(callback instanceof Global)
      assert.equal(String(callback), 'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint')
      assert.equal((state as Dict).get('current_score'), 0.5)
      const [optimizer] = root.get('optimizer_states') as readonly Dict[]
      for (const [index, slots] of optimizer.get('state') as Dict) {
        for (const [name, slot] of slots as Dict) {
          const { data } = await load(slot as TorchTensor)
          assert.deepEqual(numbers(data), numbers(wanted[`optim/${index}/${name}`].data), `${index} ${name}`)
        }
      }
      const [group] = optimizer.get('param_groups') as readonly Dict[]
      assert.deepEqual(Object.fromEntries(group), config.param_groups[0])
    })
  })

  it('every opcode that is known', async () => {
    const pickle = [
      '\x95\0\0\0\0\0\0\0\0(', // FRAME, MARK
      'N\x88\x89J\xff\xff\xff\xffK\x07M\x01\x02', // None, bools, integers
      '\x8a\0\x8a\x01\x80\x8b\x02\0\0\0\xff\x7f\x8a\x09\0\0\0\0\0\0\0\0\x80', // longs; the last is beyond 2^53
      'G?\xf8\0\0\0\0\0\0', // 1.5
      'X\x02\0\0\0\xc3\xa4\x8d\x01\0\0\0\0\0\0\0xU\x01\xe4T\x01\0\0\0y', // strings
      'C\x01aB\x01\0\0\0b\x8e\x01\0\0\0\0\0\0\0c\x96\x01\0\0\0\0\0\0\0d', // bytes
      ']q\x05(K\x01K\x02eK\x03a(K\x04lh\x05', // lists, memo
      ')\x85(K\x01t', // tuples: ((),), (1,)
      '(K\x01K\x02dr\0\x01\0\0K\x03K\x04sj\0\x01\0\0', // dicts, long memo
      '\x8f(K\x01\x90(K\x02\x91', // sets
      'K\x09\x940(K\x0a1K\x0b2', // MEMOIZE, POP, POP_MARK, DUP
      `${string('m')}${string('n')}\x93cm\nn\n`, // names
      'l.',
    ].join('')
    const bytes = (text: string) => Uint8Array.from(Buffer.from(text))
    const list = [1, 2, 3]
    const dict = new Map([
      [1, 2],
      [3, 4],
    ])
    assert.deepEqual(await rootOf(checkpointOf(pickle)), [
      ...[null, true, false, -1, 7, 513, 0, -128, 32767, -(2n ** 71n), 1.5, 'ä', 'x', 'ä', 'y'],
      ...[bytes('a'), bytes('b'), bytes('c'), bytes('d'), list, [4], list, [[]], [1], dict, dict],
      ...[new Set([1]), new Set([2]), 11, 11, new Global('m', 'n'), new Global('m', 'n')],
    ])
  })

  it('a deflated archive', async () => {
    const values = Float32Array.of(1, -2, 3)
    const pickle = `${tensor(storage('0', 3), 'K\0', 'K\x03\x85', 'K\x01\x85')}.`
    const bytes = checkpointOf(pickle, { 0: new Uint8Array(values.buffer) }, { deflate: true })
    assert.deepEqual([...(await tensorOf(bytes)).data], [...values])
    const lying = Buffer.from(bytes)
    lying.writeUInt32LE(0x7fffffff, lying.lastIndexOf('PK\x01\x02') + 24)
    await refused(lying, /far more memory/)
    lying.writeUInt32LE(8, lying.lastIndexOf('PK\x01\x02') + 24)
    await refused(lying, /the storage '0' has 8 bytes|can't be unpacked/)
  })

  it('a zip64 archive', async () => {
    const values = Float32Array.of(1, -2, 3)
    const pickle = `${tensor(storage('0', 3), 'K\0', 'K\x03\x85', 'K\x01\x85')}.`
    const bytes = checkpointOf(pickle, { 0: new Uint8Array(values.buffer) }, { zip64: true })
    assert.deepEqual([...(await tensorOf(bytes)).data], [...values])
    for (let length = 0; length < bytes.length; length++) await refused(bytes.subarray(0, length), /./)
    const fields = { 'PK\x06\x06': [32, 56], 'PK\x06\x07': [8, 16], '\x01\0\x18\0': [4, 28] }
    for (const [signature, [begin, end]] of Object.entries(fields)) {
      const at = bytes.lastIndexOf(signature)
      await refused(Buffer.from(bytes).fill(0, at, at + 4), /zip64/)
      await refused(Buffer.from(bytes).fill(0xff, at + begin, at + end), /beyond any file/)
    }
  })

  it('views outside of their storage are refused', async () => {
    const file = (offset: string, shape: string, strides: string) =>
      checkpointOf(`${tensor(storage('0', 6), offset, shape, strides)}.`, { 0: new Uint8Array(24) })
    const one = 'K\x01\x85'
    assert.equal((await tensorOf(file('K\x05', one, one))).data.length, 1)
    await refused(file('K\x06', one, one), /reaches to element 6 of a storage of 6/)
    await refused(file('K\0', 'K\x07\x85', one), /reaches to element 6/)
    await refused(file('K\0', 'K\x03\x85', 'K\x03\x85'), /reaches to element 6/)
    await refused(file('J\xff\xff\xff\xff', one, one), /no count/)
    await refused(file('K\x05', 'K\x02\x85', 'J\xff\xff\xff\xff\x85'), /no count/)
    await refused(file('K\0', 'G?\xe0\0\0\0\0\0\0\x85', one), /no count/)
    await refused(file('K\0', one, ')'), /strides/)
    // A shape of 2^62 elements that are all the same one.
    await refused(file('K\0', 'J\0\0\0\x40J\0\0\0\x40\x86', 'K\0K\0\x86'), /far more memory/)
  })

  it('calls of all but a few known names are refused', async () => {
    const calls = (pickle: string, message: RegExp) => refused(checkpointOf(pickle), message)
    await calls('cos\nsystem\n(\x8c\x01xtR.', /would call os.system, which is not allowed/)
    await calls('ctorch\n_utils._rebuild_tensor_v2\n)R.', /not allowed/)
    await calls('ctorch._utils\n_rebuild_tensor_v2\n)R.', /no storage/)
    await calls('c__builtin__\neval\n)\x81.', /__builtin__.eval/)
    await calls('cconstructor\nconstructor\n)R.', /not allowed/)
    await calls('N)R.', /not a name/)
    await calls('ccollections\nOrderedDict\n]R.', /without a tuple/)
    await calls('cos\nsystem\n}b.', /state/)
    await calls('(cos\nsystem\n\x8c\x01xo.', /opcode 0x6f/)
    await calls("(S'x'\nios\nsystem\n.", /opcode 0x53/)
    await calls('(ios\nsystem\n.', /opcode 0x69/)
    await calls(')}cos\nsystem\n\x92.', /opcode 0x92/)
    await calls('\x82\x01.', /opcode 0x82/)
    await calls('P0\n.', /opcode 0x50/)
  })

  it('pickles that are no pickles are refused', async () => {
    const bad = (pickle: string, message: RegExp) => refused(checkpointOf(pickle), message)
    await bad('', /ends too early/)
    await bad('.', /several values/)
    await bad('NN.', /several values/)
    await bad('(N.', /several values/)
    await bad('0.', /empty stack/)
    await bad('t.', /did not begin/)
    await bad('h\x05.', /refers to a value 5/)
    await bad(')K\x01a.', /not a list/)
    await bad(']K\x01K\x02s.', /not a dict/)
    await bad('}(K\x01u.', /key without a value/)
    await bad('X\xff\xff\xff\xff.', /ends too early/)
    await bad('X\x01\0\0\0\xff.', /not UTF-8/)
    await bad('\x8d\xff\xff\xff\xff\xff\xff\xff\xff.', /beyond any file/)
    await bad('\x8b\xff\xff\xff\x7f.', /integer of 2147483647 bytes/)
    await bad(`c${'x'.repeat(2000)}`, /name without an end/)
    await bad('('.repeat(20_000), /nested/)
    await bad('\x80\x09N.', /protocol 9/)
    await bad('NQ.', /unknown/)
  })

  it('memory is bounded: a small pickle can not unfold to much', async () => {
    // A list takes 2 bytes to write and a few hundred to hold.
    const bytes = checkpointOf(`${']0'.repeat(200_000)}`)
    await refused(bytes, /unfolds/)
    const before = process.memoryUsage().heapTotal
    await refused(checkpointOf(`(${'}'.repeat(4_000_000)}`), /unfolds/)
    assert.ok(process.memoryUsage().heapTotal - before < 2 * 4_000_000 + 64 * 2 ** 20)
  })

  describe('files that were made to do harm', () => {
    let empty: string
    let cwd: string
    before(async () => {
      empty = await mkdtemp(path.join(os.tmpdir(), 'ddpm-malicious-'))
      cwd = process.cwd()
      process.chdir(empty)
    })
    after(async () => {
      process.chdir(cwd)
      await rm(empty, { recursive: true })
    })

    for (const [name, message] of [
      ['malicious_system', /would call (posix|os|nt)\.system/],
      ['malicious_eval', /would call .*eval/],
      ['malicious_system_legacy', /would call (posix|os|nt)\.system/],
      ['malicious_dotted_prefix', /would call torch\.serialization\.os\.system/],
      ['malicious_inst', /opcode/],
      ['malicious_obj', /opcode/],
      ['truncated_zip', /no zip directory/],
      ['truncated_legacy', /truncated|too early/],
      ['truncated_legacy_tail', /truncated/],
      ['missing_storage', /missing/],
      ['short_storage', /8 bytes/],
    ] as const) {
      it(name, async () => {
        const file = fixture(`${name}.ckpt`)
        const expected = { name: 'DiffusionError', code: 'bad-file', message } as const
        await assert.rejects(readStateDictFile(file), expected)
        await assert.rejects(tensorOf(await readFile(file)), expected)
        assert.deepEqual(await readdir(empty), [])
        assert.ok(!existsSync(path.join(folder, 'PWNED')))
      })
    }

    it('every truncation of a file of either kind', async () => {
      for (const name of ['bare_tensor.pt', 'views_zip.ckpt', 'views_legacy.ckpt']) {
        const bytes = await readFile(fixture(name))
        for (let length = 0; length < bytes.length; length += length < 900 ? 1 : 41) {
          await assert.rejects(rootOf(bytes.subarray(0, length)), { code: 'bad-file' }, `${name} ${length}`)
        }
      }
    })
  })

  it('a safetensors file whose header is as long as a zip archive or a pickle begins', async () => {
    const file = path.join(await mkdtemp(path.join(os.tmpdir(), 'ddpm-kind-')), 'model.safetensors')
    const tensors = { a: { dtype: 'F32', shape: [1], data: Float32Array.of(1) } } as const
    for (const length of [0x4b50, 0x280]) {
      await writeSafetensors(file, tensors, { pad: '' })
      const pad = length - Number((await readFile(file)).readBigUInt64LE())
      await writeSafetensors(file, tensors, { pad: 'x'.repeat(pad) })
      assert.equal(Number((await readFile(file)).readBigUInt64LE()), length)
      assert.deepEqual(Object.keys((await readStateDictFile(file)).tensors), ['a'])
    }
    await writeFile(file, '')
    await assert.rejects(readStateDictFile(file), { code: 'bad-file' })
    await assert.rejects(readStateDictFile(`${file}.none`), { code: 'not-found' })
    await rm(path.dirname(file), { recursive: true })
  })
})
