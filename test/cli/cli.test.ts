import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { parseCommand, UsageError } from '../../lib/cli/args'
import { preview } from '../../lib/cli/preview'
import { duration, Progress } from '../../lib/cli/progress'
import { type Ended, ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

const oneLine = ({ stderr }: Ended, pattern: RegExp) => {
  assert.match(stderr, pattern)
  assert.equal(stderr.trimEnd().split('\n').length, 1, stderr)
}

describe('ddpm', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const data = at('images')
  const run = at('run')

  before(async () => {
    await writeImages(data, 12)
    const { code, stderr, stdout } = await runCli(['train', data, '--out', run, ...tinyFlags, '--steps', '3'])
    assert.equal(code, 0, stderr)
    assert.match(stdout, /12 images, 0\.\d+ M parameters, on cpu/)
    assert.match(stdout, /step 3\/3 {2}loss/)
    assert.ok(!stderr.includes('\r')) // no bar where there is no terminal
  })

  it('has a version and help', async () => {
    const { version } = JSON.parse(readFileSync(path.join(__dirname, '..', '..', '..', 'package.json'), 'utf8'))
    assert.equal((await runCli(['--version'])).stdout, `${version}\n`)
    for (const args of [['--help'], ['train', '--help'], ['sample', '-h'], ['info', '--help']]) {
      const { code, stdout, stderr } = await runCli(args)
      assert.deepEqual([code, stderr], [0, ''])
      assert.match(stdout, /Usage: ddpm/)
    }
    assert.equal((await runCli([])).code, 2)
  })

  describe('says in one line what is wrong', () => {
    const cases: [string, string[], number, RegExp][] = [
      ['a command', ['trian'], 2, /^ddpm: unknown command 'trian'; did you mean 'train'\?/],
      [
        'an option',
        ['train', 'x', '--out', 'y', '--setps', '5'],
        2,
        /unknown option '--setps'; did you mean '--steps'\?/,
      ],
      ['a number', ['sample', '--count', 'many'], 2, /--count: expected an integer of at least 1, got 'many'/],
      ['a range', ['sample', '--count', '0'], 2, /--count: expected an integer of at least 1, got '0'/],
      ['a choice', ['sample', '--sampler', 'euler'], 2, /--sampler: expected ddpm or .*unipc, got 'euler'/],
      ['a missing value', ['sample', '--count', '--json'], 2, /--count needs a value/],
      ['a value too much', ['sample', '--json=yes'], 2, /--json takes no value/],
      ['an argument too much', ['info', 'a', 'b'], 2, /unexpected argument 'b'/],
      ['a missing folder', ['train', '--out', 'y'], 2, /the folder of images is missing/],
      ['a missing --out', ['train', 'x'], 2, /--out <run> is missing/],
      ['options that exclude each other', ['sample', '--model', 'a', '--checkpoint', 'b'], 2, /give one of them/],
      ['an option without effect', ['sample', '--eta', '0.5'], 2, /--eta goes with --sampler ddim/],
      ['no folder', ['train', at('nowhere'), '--out', at('r1')], 1, /^ddpm train: .*no such folder/],
      ['no checkpoint', ['sample', '--checkpoint', at('nowhere')], 1, /^ddpm sample: no checkpoint in/],
      ['no model', ['info', at('nowhere.safetensors')], 1, /^ddpm info: .*nowhere\.safetensors/],
      ['a used run folder', ['train', data, '--out', run], 1, /holds a training already/],
      ['a changed option', ['train', '--resume', '--out', run, '--batch', '5'], 1, /batchSize is 4 in the checkpoint/],
    ]
    for (const [name, args, code, pattern] of cases) {
      it(name, async () => {
        const result = await runCli(args)
        oneLine(result, pattern)
        assert.deepEqual([result.code, result.stdout], [code, ''])
      })
    }

    it('a file that is no model, also as JSON', async () => {
      writeFileSync(at('text.safetensors'), 'this is no model')
      const result = await runCli(['sample', '--model', at('text.safetensors'), '--json'])
      oneLine(result, /^ddpm sample: /)
      assert.equal(result.code, 1)
      assert.equal(JSON.parse(result.stdout).event, 'error')
    })
  })

  it('reports a training as JSON lines', async () => {
    writeFileSync(path.join(data, 'zz-broken.png'), 'no image')
    const args = ['train', data, '--out', at('json'), ...tinyFlags, '--steps', '2', '--json', '--sample-every', '2']
    const { code, stdout, stderr } = await runCli([...args, '--sample-steps', '4', '--sample-count', '2'])
    assert.equal(code, 0, stderr)
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    assert.deepEqual(
      events.map(({ event }) => event),
      ['unreadable', 'start', 'step', 'step', 'samples', 'checkpoint', 'done'],
    )
    assert.equal(events[0].file, 'zz-broken.png')
    assert.deepEqual([events[1].images, events[1].unreadable], [12, 1])
    assert.ok(events[3].loss > 0)
    assert.equal(events.at(-1).model, path.join(at('json'), 'model.safetensors'))
  })

  it('trains on classes, and draws those that are named', async () => {
    await writeImages(at('flowers', 'Rose & Co'), 4)
    await writeImages(at('flowers', 'tulip'), 4)
    const run = at('flower-run')
    const flags = '--classes folders --scale-shift-norm --steps 20 --lr 0.005 --ema-decay 0'.split(' ')
    const trained = await runCli(['train', at('flowers'), '--out', run, ...tinyFlags, ...flags])
    assert.equal(trained.code, 0, trained.stderr)
    const draw = async (name: string, ...args: string[]) => {
      const all = ['sample', '--checkpoint', run, '--device', 'cpu', '--deterministic', '--separate', at(name), ...args]
      const { code, stderr } = await runCli(all)
      assert.equal(code, 0, stderr)
      return readdirSync(at(name)).map((file) => readFileSync(at(name, file)))
    }
    const [rose] = await draw('rose', '--class', 'rose', '-n', '1')
    const [tulip] = await draw('tulip', '--class', 'tulip', '-n', '1')
    assert.ok(!rose.equals(tulip))
    const guided = await draw('guided', '--class', '0', '--guidance', '2', '-n', '1')
    assert.ok(!guided[0].equals(rose))
    const both = await draw('both', '-n', '2') // without --class, all in turn
    assert.ok(both[0].equals(rose))
    const [, second] = await draw('second', '--class', 'rose,tulip', '-n', '2')
    assert.ok(second.equals(both[1]))
    const wrong = await runCli(['sample', '--checkpoint', run, '--class', 'oak'])
    oneLine(wrong, /^ddpm sample: class 'oak': there is no such class; expected one of Rose & Co, tulip$/m)
    assert.equal(wrong.code, 1)
  })

  describe('sample', () => {
    const model = ['--model', path.join(run, 'model.safetensors'), '--device', 'cpu']

    it('draws a grid, and single files that are the same images in any batch', async () => {
      const grid = at('out', 'grid.png')
      const args = [
        'sample',
        ...model,
        '--count',
        '5',
        '--output',
        grid,
        '--separate',
        at('five'),
        '--deterministic',
        '--json',
      ]
      const { code, stdout, stderr } = await runCli([...args, '--batch', '3'])
      assert.equal(code, 0, stderr)
      const done = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
      assert.deepEqual([done.event, done.count, done.files.length], ['done', 5, 6])
      const { width, height, channels } = await sharp(grid).metadata()
      assert.deepEqual([width, height, channels], [(3 * 10 + 2) * 16, (2 * 10 + 2) * 16, 3])
      assert.deepEqual(readdirSync(at('five')), ['00000.png', '00001.png', '00002.png', '00003.png', '00004.png'])
      const one = ['--count', '1', '--first', '3', '--separate', at('one'), '--deterministic']
      assert.equal((await runCli(['sample', ...model, ...one])).code, 0)
      assert.deepEqual(readdirSync(at('one')), ['00003.png'])
      const image = (name: string) => readFileSync(at(name, '00003.png'))
      assert.ok(image('one').equals(image('five')))
      assert.ok(!image('five').equals(readFileSync(at('five', '00002.png'))))
    })

    it('draws from a checkpoint, with DDIM', async () => {
      const args = [
        'sample',
        '--checkpoint',
        run,
        '--device',
        'cpu',
        '--sampler',
        'ddim',
        '--steps',
        '4',
        '--eta',
        '0.5',
      ]
      const { code, stderr, stdout } = await runCli([
        ...args,
        '--count',
        '2',
        '--output',
        at('ddim.png'),
        '--scale',
        '1',
      ])
      assert.equal(code, 0, stderr)
      assert.match(stdout, /^2 images in [\d.]+ s: .*ddim\.png\n$/)
      assert.equal((await sharp(at('ddim.png')).metadata()).width, 22)
    })

    it('ends with 130 at SIGINT, without a file', async () => {
      const child = startCli(['sample', ...model, '--count', '100000', '--batch', '1', '--output', at('never.png')])
      const timer = setTimeout(() => child.kill('SIGINT'), 5000)
      const { code, stderr } = await ended(child)
      clearTimeout(timer)
      assert.deepEqual([code, stderr], [130, ''])
      assert.ok(!readdirSync(folder).includes('never.png'))
    })
  })

  it('says what a model and a checkpoint hold', async () => {
    const ofModel = await runCli(['info', path.join(run, 'model.safetensors'), '--json'])
    const model = JSON.parse(ofModel.stdout)
    assert.deepEqual([model.kind, model.model.timesteps, model.training.step], ['model', 20, 3])
    const ofRun = await runCli(['info', run])
    assert.match(ofRun.stdout, /kind +checkpoint\n.*step +3\n.*timesteps: 20/s)
    const { kind, parameters } = JSON.parse((await runCli(['info', run, '--json'])).stdout)
    assert.deepEqual([kind, parameters], ['checkpoint', model.parameters])
  })
})

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
    assert.deepEqual(parseCommand(command, ['--sizes', 'none']).values.sizes, [])
    for (const wrong of [['--sizes', '1,,2'], ['--sizes', '1.5'], ['--rate', '-2'], ['--rate'], ['--no-flag']]) {
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

  it('draws two pixels a character', async () => {
    const data = Uint8Array.of(255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9)
    const text = await preview({ data, width: 2, height: 2, channels: 3 }, 80)
    assert.equal(text, '\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[38;2;0;255;0m\x1b[48;2;9;9;9m▀\x1b[0m\n')
    const wide = await preview({ data: new Uint8Array(300 * 100), width: 300, height: 100, channels: 1 }, 60)
    assert.equal(wide.trimEnd().split('\n')[0].split('▀').length - 1, 60)
  })
})
