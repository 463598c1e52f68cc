/** Hostile safetensors files. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { type Corpus, file, seed } from '../support/input'

const readers = ['safetensors', 'safetensors-header', 'state-dict']
const fixtures = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures')

export function safetensors(header: string | Uint8Array, data: Uint8Array = Buffer.alloc(4), length?: bigint): Buffer {
  const json = Buffer.from(header)
  const head = Buffer.alloc(8)
  head.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([head, json, data])
}

const entry = (dtype: unknown, shape: unknown, offsets: unknown = [0, 4]) =>
  JSON.stringify({ x: { dtype, shape, data_offsets: offsets } })
const deep = (n: number) => '['.repeat(n) + ']'.repeat(n)
const bomb = (name: string, bytes: () => Uint8Array) => file(name, readers, 'x.safetensors', bytes)

const lengths = [0n, 1n, 2n ** 31n - 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]
const shapes = [
  [2 ** 53],
  [2 ** 26, 2 ** 27],
  [0, 2 ** 53 - 1],
  [1e308],
  [-1],
  [0.5],
  ['1'],
  null,
  {},
  Array(100_000).fill(1),
  Array(1100).fill(2),
]
const offsets = [[4, 0], [0], [0, 4, 8], [-4, 0], [0, 2 ** 53], [0, 1e308], [2, 6], ['0', '4'], null, { length: 2 }]

/** `n` tensors without elements: only the header is long. */
function manyEmpty(n: number): string {
  const entries = Array.from({ length: n }, (_, i) => `"${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`)
  return `{${entries.join(',')}}`
}

export const corpus: Corpus = {
  bombs: [
    ...lengths.map((length) => bomb(`header length ${length}`, () => safetensors('{}', Buffer.alloc(16), length))),
    ...shapes.map((shape, i) => bomb(`shape ${i}`, () => safetensors(entry('F32', shape)))),
    ...offsets.map((at, i) => bomb(`offsets ${i}`, () => safetensors(entry('F32', [1], at)))),
    ...[1000, 20_000, 1_000_000].flatMap((n) => [
      bomb(`dtype ${n} deep`, () => safetensors(`{"x":{"dtype":${deep(n)},"shape":[1],"data_offsets":[0,4]}}`)),
      bomb(`shape ${n} deep`, () => safetensors(`{"x":{"dtype":"F32","shape":${deep(n)},"data_offsets":[0,4]}}`)),
      bomb(`metadata ${n} deep`, () => safetensors(`{"__metadata__":${deep(n)}}`, Buffer.alloc(0))),
      bomb(`objects ${n} deep`, () =>
        safetensors(`{"__metadata__":${'{"a":'.repeat(n)}1${'}'.repeat(n)}}`, Buffer.alloc(0)),
      ),
    ]),
    bomb('dtype of 5 MB', () => safetensors(entry('x'.repeat(5e6), [1]))),
    bomb('dtype is an object of 1 MB', () => safetensors(entry({ a: 'x'.repeat(1e6) }, [1]))),
    bomb('name of 5 MB', () => safetensors(`{"${'x'.repeat(5e6)}":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`)),
    bomb('name of 5 MB twice', () => {
      const member = `"${'x'.repeat(5e6)}":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`
      return safetensors(`{${member},${member}}`)
    }),
    bomb('200000 tensors without elements', () => safetensors(manyEmpty(200_000), Buffer.alloc(0))),
    bomb('20 MB of brackets', () => safetensors(`[${'[],'.repeat(6e6)}[]]`)),
    bomb('20 MB of commas', () => safetensors(`{"x":[${'1,'.repeat(1e7)}1]}`)),
    bomb('50 MB of spaces', () => safetensors(`{${' '.repeat(5e7)}}`, Buffer.alloc(0))),
    bomb('escapes', () => safetensors(`{"x":"${'\\u0000'.repeat(1e6)}"}`)),
    bomb('numbers of a million digits', () => safetensors(entry('F32', [1]).replace('[1]', `[${'1'.repeat(1e6)}]`))),
    bomb('names with a meaning', () =>
      safetensors(
        '{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
          '"constructor":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}',
      ),
    ),
    bomb('metadata that is no string', () => safetensors('{"__metadata__":{"a":{"toString":1}}}', Buffer.alloc(0))),
  ],
  seeds: ['ema.safetensors', 'ema_constant.safetensors'].map((name) =>
    seed(`fixture ${name}`, readers, 'x.safetensors', readFileSync(path.join(fixtures, name))),
  ),
  snippets: ['"', '{', '}', '[', ']', ',', ':', '9', '-', 'e9', 'null', '\\', '1e15', '[[[[', 'F64', 'BF16', 'I64'],
}
