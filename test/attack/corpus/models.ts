/** Hostile models and runs of this project's own formats, and its other files. */
import { cpSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { jsonSnippets } from '../../fuzz/seeds'
import { type Corpus, file, type Input, light, type Seed, seed, slow, withHostileValues } from '../support/input'
import type { Tiny } from '../support/tiny'
import { safetensors } from './safetensors'

const modelReaders = ['model', 'source']

/** A safetensors file with other metadata. */
function withMetadata(bytes: Buffer, change: (metadata: Record<string, string>) => void): Buffer {
  const length = Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length))
  change(header.__metadata__)
  return safetensors(JSON.stringify(header), bytes.subarray(8 + length))
}

function models(model: Buffer): Input[] {
  const length = Number(model.readBigUInt64LE())
  const { config } = JSON.parse(model.toString('utf8', 8, 8 + length)).__metadata__
  const one = (name: string, text: string, key = 'config') =>
    file(`model: ${name}`, modelReaders, 'x.safetensors', () =>
      withMetadata(model, (metadata) => {
        metadata[key] = text
      }),
    )
  const deep = (n: number) => `${'{"a":'.repeat(n)}1${'}'.repeat(n)}`
  const { unetConfig, ...rest } = JSON.parse(config)
  const many = (name: string, fields: object) =>
    one(name, JSON.stringify({ ...rest, unetConfig: { ...unetConfig, ...fields } }))
  return [
    ...[...withHostileValues(JSON.parse(config))].map(({ name, value }) => light(one(name, JSON.stringify(value)))),
    many('blocks without end', { numResBlocks: 1e9 }),
    many('levels without end', { channelMult: Array(100_000).fill(1) }),
    many('a deep transformer', { useSpatialTransformer: true, contextDim: 8, transformerDepth: 1e9 }),
    many('wide channels', { modelChannels: 2 ** 30 }),
    many('a million classes', { numClasses: 1e6 }),
    many('a wide context', { useSpatialTransformer: true, contextDim: 2 ** 31 - 1 }),
    one('timesteps without end', JSON.stringify({ ...JSON.parse(config), timesteps: 2e9 })),
    ...['config', 'training'].flatMap((key) => [
      ...[9000, 200_000].map((n) => one(`${key} ${n} deep`, deep(n), key)),
      one(`${key} of 10 MB`, JSON.stringify({ a: 'x'.repeat(1e7) }), key),
      one(`${key} of a million members`, JSON.stringify({ a: Array(1e6).fill({}) }), key),
      one(`${key} that is no JSON`, '{', key),
      one(`${key} that is null`, 'null', key),
    ]),
  ]
}

function runs(run: string): Input[] {
  const newest = path.join('checkpoints', 'step-00000004')
  const stateFile = path.join(newest, 'state.json')
  const state = JSON.parse(readFileSync(path.join(run, stateFile), 'utf8'))
  const readers = ['checkpoint', 'resume', 'source']
  const changed = (name: string, write: (folder: string) => void): Input => ({
    name: `run: ${name}`,
    readers,
    write: (folder) => {
      cpSync(run, folder, { recursive: true })
      write(folder)
      return folder
    },
  })
  const withState = (name: string, text: () => string) =>
    changed(name, (folder) => writeFileSync(path.join(folder, stateFile), text()))
  return [
    ...[...withHostileValues(state)].map(({ name, value }) => light(withState(name, () => JSON.stringify(value)))),
    withState('state.json, 200000 deep', () => `{"format":${'['.repeat(2e5)}${']'.repeat(2e5)}}`),
    withState('state.json of 100 MB', () => JSON.stringify({ ...state, note: 'x'.repeat(1e8) })),
    withState('state.json of a million members', () => JSON.stringify({ ...state, note: Array(1e6).fill({}) })),
    withState('state.json of nothing', () => ''),
    changed('names of event files', (folder) => {
      for (const number of ['99999999999999999999', '-1', 'x', '']) {
        writeFileSync(path.join(folder, `events.out.tfevents.${number}`), '')
      }
    }),
    changed('names of checkpoints that are files', (folder) => {
      for (const name of ['step-99999999999999999999', 'step-0000000x', 'step-', '.writing-', '.removed-x']) {
        writeFileSync(path.join(folder, 'checkpoints', name), '')
      }
    }),
  ]
}

function logs(): Input[] {
  const log = (name: string, text: () => string | Uint8Array) =>
    file(`metrics: ${name}`, ['metrics'], 'metrics.jsonl', text)
  return [
    log('one line of 100 MB', () => `{"step":1,"a":"${'x'.repeat(1e8)}"}\n`),
    log('one line of 100 MB without an end', () => 'x'.repeat(1e8)),
    log('30 million empty lines', () => '\n'.repeat(3e7)),
    log('3 million short lines', () => '{"step":1}\n'.repeat(3e6)),
    log('a deep line', () => `{"step":${'['.repeat(1e6)}${']'.repeat(1e6)}}\n`),
    log('lines of no object', () => '1\nnull\n"x"\n[]\n'),
    log('steps that are none', () => '{"step":null}\n{"step":"1"}\n{"step":1e999}\n{"step":-1}\n{"step":{}}\n'),
    log('no UTF-8', () => Buffer.from([0xff, 0xfe, 0x0a, 0xc3])),
  ]
}

function classes(): Input[] {
  const labels = (name: string, text: () => string) => file(`classes: ${name}`, ['class-labels'], 'classes.json', text)
  return [
    labels('deep', () => `${'{"a":'.repeat(1e6)}1${'}'.repeat(1e6)}`),
    labels('15 MB of brackets', () => `[${'[],'.repeat(5e6)}[]]`),
    slow(
      labels('a million names', () => {
        return JSON.stringify(Object.fromEntries(Array.from({ length: 1e6 }, (_, i) => [`a/${i}.png`, `class ${i}`])))
      }),
    ),
    labels('a name of 100 MB', () => JSON.stringify({ 'a/0.png': 'x'.repeat(1e8), 'b/1.png': 'b' })),
    labels('names with a meaning', () => '{"__proto__":"a","a/0.png":"constructor","b/1.png":"__proto__"}'),
    labels('no names', () => '{"a/0.png":null,"b/1.png":1}'),
    labels('an array', () => '["a"]'),
    labels('nothing', () => ''),
  ]
}

function locks(): Input[] {
  const gone = { token: 't', pid: 2 ** 22 + 1, host: os.hostname() }
  const lock = (name: string, text: () => string): Input => ({
    name: `lock: ${name}`,
    readers: ['lock'],
    write: (folder) => {
      const file = path.join(folder, 'lock')
      writeFileSync(file, text())
      utimesSync(file, 0, 0) // beyond the time in which its writer could still be writing it
      return file
    },
  })
  return [
    ...[...withHostileValues(gone)].map(({ name, value }) => light(lock(name, () => JSON.stringify(value)))),
    lock('of 100 MB', () => 'x'.repeat(1e8)),
    lock('deep', () => '['.repeat(1e6)),
    lock('of zeros', () => '\0'.repeat(1000)),
    lock('null', () => 'null'),
    lock('empty', () => ''),
  ]
}

/** The files of a run, each damaged in its place. */
function runSeeds(run: string): Seed[] {
  const newest = path.join('checkpoints', 'step-00000004')
  const files = readdirSync(path.join(run, newest)).map((name) => path.join(newest, name))
  return files.map((name) => ({
    name: `run: ${name}`,
    readers: name.endsWith('state.json') ? ['checkpoint', 'resume'] : ['checkpoint'],
    bytes: readFileSync(path.join(run, name)),
    write: (folder, bytes) => {
      cpSync(run, folder, { recursive: true })
      writeFileSync(path.join(folder, name), bytes)
      return folder
    },
  }))
}

export function corpusOf({ run, model }: Tiny): Corpus {
  const bytes = readFileSync(model)
  const metrics = readFileSync(path.join(run, 'metrics.jsonl'))
  return {
    bombs: [...models(bytes), ...runs(run), ...logs(), ...classes(), ...locks()],
    seeds: [
      seed('model', modelReaders, 'x.safetensors', bytes),
      ...runSeeds(run),
      seed('metrics', ['metrics'], 'metrics.jsonl', metrics),
      seed('classes', ['class-labels'], 'classes.json', Buffer.from('{"a/0.png":"a","b/1.png":"b"}')),
    ],
    snippets: [...jsonSnippets, '\\"', '\n'],
  }
}
