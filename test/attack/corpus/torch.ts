/** Hostile .ckpt and .pt files: pickles that unfold, storages that are read again and again, archives that lie. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { type Corpus, file, type Input, seed, slow } from '../support/input'
import {
  archive,
  bytes,
  get,
  global,
  int,
  legacy,
  list,
  type Piece,
  pickle,
  put,
  repeated,
  storage,
  tensor,
  text,
  tuple,
  uint32,
  zip,
} from '../support/pickle'

const readers = ['torch', 'state-dict', 'init-from-ckpt', 'inception']
const fixtures = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'checkpoints')
const MB = 2 ** 20

/** One pickle in both of PyTorch's forms. */
function both(name: string, data: () => Uint8Array, storages: () => Record<string, Uint8Array> = () => ({})): Input[] {
  return [
    file(`zip: ${name}`, readers, 'x.pt', () => archive(data(), storages())),
    file(`legacy: ${name}`, readers, 'x.pt', () => legacy(data(), storages())),
  ]
}

/** A list of what `n` calls of a memoised function with memoised arguments return. */
const calls = (module: string, name: string, args: Piece, n: number) =>
  pickle(']', global(module, name), put(0), '0', args, put(1), '0', repeated(bytes(get(0), get(1), 'Ra'), n))

/** A dict of `n` tensors of one storage. */
function sharing(n: number, elements: number, view: { shape: number[]; strides: number[] }): Buffer {
  const items = Array.from({ length: n }, (_, i) => bytes(text(`t${i}`), tensor(get(1), view)))
  return pickle(storage({ elements }), put(1), '0', '}(', ...items, 'u')
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => int(i))
const pairs = (n: number) => Array.from({ length: n }, (_, i) => bytes(int(i), 'N\x86'))

/** By opcode, each with `length` bytes announced. */
const announced = (opcode: string, length: Uint8Array, content: Piece = '') => pickle(opcode, length, content)
const long8 = (value: bigint) => {
  const number = Buffer.alloc(8)
  number.writeBigUInt64LE(value)
  return number
}

const unfolding: Input[] = [
  ...both('encode again and again', () => calls('_codecs', 'encode', tuple(text('a'.repeat(MB)), text('latin1')), 500)),
  ...both('encode of wide text', () =>
    calls('_codecs', 'encode', tuple(text('\u00ff'.repeat(MB)), text('latin1')), 500),
  ),
  ...['set', 'frozenset', 'list', 'tuple', 'dict', 'bytearray', 'bytes', 'str'].flatMap((name) =>
    ['builtins', '__builtin__'].flatMap((module) =>
      both(`${module}.${name} of a list, again and again`, () =>
        calls(module, name, bytes(list(...numbers(20_000)), '\x85'), 500),
      ),
    ),
  ),
  ...both('bytearray of a length', () => calls('builtins', 'bytearray', bytes(int(2 ** 30), '\x85'), 100)),
  ...both('bytearray of a text', () =>
    calls('builtins', 'bytearray', tuple(text('a'.repeat(MB)), text('latin-1')), 500),
  ),
  ...['OrderedDict', 'Counter', 'defaultdict', 'deque'].flatMap((name) =>
    both(`${name} again and again`, () => calls('collections', name, bytes(list(...pairs(15_000)), '\x85'), 500)),
  ),
  ...both('Counter of a long text', () => calls('collections', 'Counter', bytes(text('ab'.repeat(MB)), '\x85'), 500)),
  ...both('torch.Size again and again', () => calls('torch', 'Size', bytes(list(...numbers(20_000)), '\x85'), 500)),
  ...both('sets of one another', () => {
    const level = bytes(global('builtins', 'set'), list(get(0), get(0), int(1)), '\x85R', put(0), '0')
    return pickle('N', put(0), '0', repeated(level, 5000), get(0))
  }),
  ...both('lists of one another, 2^60 in all', () => {
    return pickle(']', put(0), '0', repeated(bytes('(', get(0), get(0), 'l', put(0), '0'), 60), get(0))
  }),
  ...both('tuples of one another, 2^60 in all', () => {
    return pickle(')', put(0), '0', repeated(bytes(get(0), get(0), '\x86', put(0), '0'), 60), get(0))
  }),
  ...both('a dict of dicts of one another', () => {
    const level = bytes('}(', text('a'), get(0), text('b'), get(0), 'u', put(0), '0')
    return pickle('}', put(0), '0', repeated(level, 60), get(0))
  }),
  ...both('a list in itself', () => pickle(']', put(0), get(0), 'a')),
  ...both('a dict in itself', () => pickle('}', put(0), text('state_dict'), get(0), 's')),
  ...[1000, 1_000_000].flatMap((n) => [
    ...both(`lists ${n} deep`, () => pickle(repeated(']', n), repeated('a', n - 1))),
    ...both(`tuples ${n} deep`, () => pickle(')', repeated('\x85', n))),
    ...both(`dicts ${n} deep`, () => pickle(repeated('}K\x00', n), '}', repeated('s', n))),
    ...both(`marks ${n} deep`, () => pickle(repeated('(', n), repeated('t', n))),
  ]),
  ...both('a text put into the memo a million times', () => pickle(text('a'), repeated('q\x00', 1_000_000))),
  ...both('a memo of the largest index', () => pickle('N', put(2 ** 32 - 1))),
  ...both('a million of DUP', () => pickle(']', repeated('2', 1_000_000))),
  ...both('a million lists', () => pickle(']', repeated(']a', 1_000_000))),
  ...both('a million dicts', () => pickle(']', repeated('}a', 1_000_000))),
  ...both('a million sets', () => pickle(']', repeated('\x8fa', 1_000_000))),
  ...both('a million globals', () => pickle(']', repeated(bytes(global('torch', 'Size'), 'a'), 1_000_000))),
  ...both('a million persistent ids', () => pickle(']', repeated(bytes(storage({ elements: 1 }), 'a'), 100_000))),
  ...both('names of a megabyte', () => pickle(global('a'.repeat(MB), 'b'.repeat(MB)))),
  ...both('LONG of a million digits', () => pickle(`L${'9'.repeat(MB)}L\n`)),
  ...both('INT of a million digits', () => pickle(`I${'9'.repeat(MB)}\n`)),
  ...both('FLOAT of a million digits', () => pickle(`F${'9'.repeat(MB)}\n`)),
  ...both('STRING of a megabyte of escapes', () => pickle(`S'${'\\x41'.repeat(MB)}'\n`)),
  ...both('LONG4 of a megabyte', () => pickle('\x8b', uint32(MB), Buffer.alloc(MB, 0x7f))),
  ...both('LONG1 of 255 bytes, often', () =>
    pickle(']', repeated(bytes('\x8a\xff', Buffer.alloc(255, 0x7f), 'a'), 50_000)),
  ),
]

const lies: Input[] = [
  ...(
    [
      ['BINUNICODE', 'X', uint32(2 ** 32 - 1)],
      ['BINUNICODE8', '\x8d', long8(2n ** 63n)],
      ['BINBYTES', 'B', uint32(2 ** 32 - 1)],
      ['BINBYTES8', '\x8e', long8(2n ** 64n - 1n)],
      ['BYTEARRAY8', '\x96', long8(2n ** 40n)],
      ['LONG4', '\x8b', uint32(2 ** 31)],
      ['BINSTRING', 'T', uint32(2 ** 31)],
      ['FRAME', '\x95', long8(2n ** 63n)],
    ] as const
  ).flatMap(([name, opcode, length]) => both(`${name} that is longer than the file`, () => announced(opcode, length))),
  ...[
    '0',
    '1',
    't',
    'l',
    'd',
    'e',
    'u',
    's',
    'a',
    'R',
    'b',
    '\x81',
    '\x92',
    '\x85',
    '\x87',
    '\x91',
    '\x90',
    'Q',
  ].flatMap((opcode) => both(`${JSON.stringify(opcode)} on an empty stack`, () => pickle(opcode))),
  ...both('no end', () => bytes('\x80\x02', repeated('N0', 1000))),
  ...both('a protocol of 255', () => bytes('\x80\xffN.')),
]

const views: Input[] = [
  ...both(
    'tensors of one storage',
    () => sharing(5000, 2 * MB, { shape: [1], strides: [1] }),
    () => ({ 0: Buffer.alloc(8 * MB) }),
  ),
  ...both(
    'strided views of one storage',
    () => sharing(2000, 2 * MB, { shape: [2], strides: [2 * MB - 1] }),
    () => ({ 0: Buffer.alloc(8 * MB) }),
  ),
  ...both(
    'whole views of one storage',
    () => sharing(500, 2 * MB, { shape: [2 * MB], strides: [1] }),
    () => ({ 0: Buffer.alloc(8 * MB) }),
  ),
  ...(
    [
      ['a stride of 0', [2 ** 30], [0]],
      ['many strides of 0', Array(30).fill(2), Array(30).fill(0)],
      ['no elements, and a huge extent', [0, 2 ** 53 - 1], [1, 1]],
      ['extents whose product overflows', [2 ** 32, 2 ** 32, 2 ** 32], [1, 1, 1]],
      ['a negative extent', [-1], [1]],
      ['a negative stride', [2], [-1]],
      ['a stride beyond the storage', [2], [2 ** 53 - 1]],
      ['twenty thousand dimensions', Array(20_000).fill(1), Array(20_000).fill(1)],
      ['fewer strides than extents', [1, 1], [1]],
    ] as const
  ).flatMap(([name, shape, strides]) =>
    both(
      `a view of ${name}`,
      () => pickle('}', text('x'), tensor(storage({ elements: 4 }), { shape, strides }), 's'),
      () => ({ 0: Buffer.alloc(16) }),
    ),
  ),
  ...[2 ** 53 - 1, 2 ** 62, -1].flatMap((elements) =>
    both(
      `a storage of ${elements} elements`,
      () => pickle('}', text('x'), tensor(storage({ elements }), { shape: [4], strides: [1] }), 's'),
      () => ({ 0: Buffer.alloc(16) }),
    ),
  ),
  ...[-1, 4, 2 ** 53 - 1].flatMap((offset) =>
    both(
      `a view at ${offset}`,
      () => pickle('}', text('x'), tensor(storage({ elements: 4 }), { offset, shape: [1], strides: [1] }), 's'),
      () => ({ 0: Buffer.alloc(16) }),
    ),
  ),
]

const small = pickle('}')
const zipFile = (name: string, content: () => Uint8Array) => file(`zip: ${name}`, readers, 'x.pt', content)
const archives: Input[] = [
  slow(
    zipFile('a pickle of 1 GiB, deflated', () =>
      zip([{ name: 'a/data.pkl', bytes: Buffer.alloc(2 ** 30), deflate: true }]),
    ),
  ),
  zipFile('a pickle of 300 MB that says it is of 10 bytes', () =>
    zip([{ name: 'a/data.pkl', bytes: Buffer.alloc(3e8, 'N0'), deflate: true, says: { size: 10 } }]),
  ),
  slow(
    zipFile('a storage of 1 GiB, deflated', () => {
      const x = tensor(storage({ elements: 2 ** 28 }), { shape: [2 ** 28], strides: [1] })
      return archive(pickle('}', text('x'), x, 's'), { 0: Buffer.alloc(2 ** 30) })
    }),
  ),
  ...[0, 10, 2 ** 31, 2 ** 32 - 1].flatMap((size) => [
    zipFile(`an entry that says ${size} bytes`, () => zip([{ name: 'a/data.pkl', bytes: small, says: { size } }])),
    zipFile(`an entry that says ${size} compressed bytes`, () =>
      zip([{ name: 'a/data.pkl', bytes: small, says: { compressed: size } }]),
    ),
    zipFile(`an entry at ${size}`, () => zip([{ name: 'a/data.pkl', bytes: small, says: { offset: size } }])),
  ]),
  ...[1, 9, 12, 14, 99].map((method) =>
    zipFile(`method ${method}`, () => zip([{ name: 'a/data.pkl', bytes: small, says: { method } }])),
  ),
  zipFile('60000 entries', () =>
    zip(Array.from({ length: 60_000 }, (_, i) => ({ name: `a/data/${i}`, bytes: Buffer.alloc(0) }))),
  ),
  zipFile('entries of one name', () => zip(Array(1000).fill({ name: 'a/data.pkl', bytes: small }))),
  zipFile('65535 entries announced', () => zip([{ name: 'a/data.pkl', bytes: small }], 65535)),
  zipFile('names that lead elsewhere', () =>
    zip([
      { name: '../data.pkl', bytes: small },
      { name: '/etc/data.pkl', bytes: small },
    ]),
  ),
  zipFile('a name of 64 KB', () => zip([{ name: `${'a/'.repeat(32_000)}data.pkl`, bytes: small }])),
  zipFile('overlapping entries', () => {
    const x = tensor(storage({ elements: 2 * MB }), { shape: [2 * MB], strides: [1] })
    const items = Array.from({ length: 200 }, (_, i) => {
      return bytes(text(`t${i}`), tensor(storage({ key: String(i), elements: 2 * MB }), { shape: [1], strides: [1] }))
    })
    const first = { name: 'a/data/0', bytes: Buffer.alloc(8 * MB), deflate: true }
    const more = Array.from({ length: 199 }, (_, i) => ({
      ...first,
      name: `a/data/${i + 1}`,
      bytes: Buffer.alloc(0),
      deflate: false,
      says: { method: 8, size: 8 * MB, compressed: 8200, offset: 0 },
    }))
    return zip([first, { name: 'a/data.pkl', bytes: pickle('}(', text('x'), x, ...items, 'u') }, ...more])
  }),
]

const seedNames = ['bare_tensor.pt', 'views_zip.ckpt', 'trainer_like.ckpt', 'bare_state_dict_proto4.ckpt']
const legacyNames = ['views_legacy.ckpt', 'ddpm_tiny_legacy.ckpt']

export const corpus: Corpus = {
  bombs: [...unfolding, ...lies, ...views, ...archives],
  seeds: [...seedNames, ...legacyNames].map((name) =>
    seed(`fixture ${name}`, readers, 'x.ckpt', readFileSync(path.join(fixtures, name))),
  ),
  snippets: [
    ...'( ) t R \x81 b Q . } ] u e s a \x85 h\0 q\0 2 0'.split(' '),
    'PK\x03\x04',
    'PK\x01\x02',
    'PK\x05\x06',
    'cos\nsystem\n',
    '\x8a\xff',
    'X\xff\xff\xff\x7f',
    'K\xff',
  ],
}
