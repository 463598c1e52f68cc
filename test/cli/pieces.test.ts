import assert from 'node:assert/strict'
import { parseCommand, UsageError } from '../../lib/cli/args'
import { preview } from '../../lib/cli/preview'
import { duration, Progress } from '../../lib/cli/progress'

describe('command line pieces', () => {
  it('parses every kind of option', () => {
    const command = {
      name: 'x',
      summary: '',
      usage: '',
      positionals: 1,
      notes: '',
      options: {
        flag: { kind: 'flag', help: '' },
        seed: { kind: 'seed', help: '' },
        seeds: { kind: 'seeds', help: '' },
        text: { kind: 'string', short: 't', help: '' },
        rate: { kind: 'number', help: '', min: -1 },
        sizes: { kind: 'integers', help: '' },
      },
      run: async () => 0,
    } as const
    const { values, positionals } = parseCommand(command, [
      '--flag',
      '-t',
      'a b',
      'in',
      '--rate',
      '-0.5',
      '--sizes=1,2',
    ])
    assert.deepEqual({ ...values }, { flag: true, text: 'a b', rate: -0.5, sizes: [1, 2] })
    assert.deepEqual(positionals, ['in'])
    const seeds = parseCommand(command, ['--seed', '7', '--seeds', '18446744073709551615,0']).values
    assert.deepEqual({ ...seeds }, { seed: 7, seeds: [2n ** 64n - 1n, 0] })
    assert.deepEqual(parseCommand(command, ['--sizes', 'none']).values.sizes, [])
    for (const wrong of [
      ['--sizes', '1,,2'],
      ['--sizes', '1.5'],
      ['--rate', '-2'],
      ['--rate'],
      ['--no-flag'],
      ['--seed', '-1'],
      ['--seed', '1.5'],
    ]) {
      assert.throws(() => parseCommand(command, wrong), UsageError)
    }
  })

  it('draws a bar on a terminal only', () => {
    let text = ''
    const write = (s: string) => {
      text += s
    }
    const terminal = { isTTY: true, columns: 70, write }
    const bar = new Progress(terminal, { label: 'train', total: 10 })
    bar.update(5, 'loss 0.5')
    bar.update(10, 'loss 0.4')
    assert.match(text, /train █+░+ .*50% 5\/10/)
    assert.match(text, /100% 10\/10 .*ETA 0:00/)
    assert.ok(text.split('\r').every((line) => line.replace('\x1b[K', '').length < 70))
    text = ''
    new Progress({ ...terminal, isTTY: false }, { label: 'train', total: 10 }).update(10)
    assert.equal(text, '')
    assert.deepEqual([0.4, 75, 3675].map(duration), ['0:00', '1:15', '1:01:15'])
  })

  it('writes lines where there is no terminal, every half minute, if asked to', () => {
    let text = ''
    const write = (s: string) => {
      text += s
    }
    const { now } = performance
    try {
      let time = 0
      performance.now = () => time
      const progress = new Progress({ write }, { label: 'sample', total: 100, lines: true })
      for (time = 1000; time <= 60_000; time += 1000) progress.update(time / 1000, 'of 16 images')
    } finally {
      performance.now = now
    }
    assert.equal(text, 'sample 30% 30/100  ETA 1:10  of 16 images\nsample 60% 60/100  ETA 0:40  of 16 images\n')
  })

  it('draws two pixels a character', async () => {
    const data = Uint8Array.of(255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9)
    const text = await preview({ data, width: 2, height: 2, channels: 3 }, 80)
    assert.equal(text, '\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[38;2;0;255;0m\x1b[48;2;9;9;9m▀\x1b[0m\n')
    const wide = await preview({ data: new Uint8Array(300 * 100), width: 300, height: 100, channels: 1 }, 60)
    assert.equal(wide.trimEnd().split('\n')[0].split('▀').length - 1, 60)
  })
})
