import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
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
    const commands = ['train', 'sample', 'evaluate', 'export', 'convert', 'push', 'info']
    for (const args of [['--help'], ['sample', '-h'], ...commands.map((name) => [name, '--help'])]) {
      const { code, stdout, stderr } = await runCli(args)
      assert.deepEqual([code, stderr], [0, ''])
      assert.match(stdout, /Usage: ddpm/)
      for (const line of stdout.split('\n')) assert.ok(line.length <= 80, `ddpm ${args.join(' ')}: ${line}`)
    }
    assert.equal((await runCli([])).code, 2)
  })

  describe('says in one line what is wrong', () => {
    const cat = path.join(data, '0001.png')
    const cases: [string, string[], number, RegExp][] = [
      ['a command', ['trian'], 2, /^ddpm: unknown command 'trian'; did you mean 'train'\?/],
      [
        'an option',
        ['train', 'x', '--out', 'y', '--setps', '5'],
        2,
        /unknown option '--setps'; did you mean '--steps'\?/,
      ],
      ['an option by another name', ['sample', '--num_inference_steps', '5'], 2, /did you mean '--steps'\?/],
      ['another', ['train', 'x', '--learning-rate', '5'], 2, /'--learning-rate'; did you mean '--lr'\?/],
      [
        'a value of the library',
        ['sample', '--init-image', cat, '--strength', '0.001'],
        1,
        /sample: --strength: expected at/,
      ],
      ['a scheduler', ['sample', '--sampler', 'ddim', '--steps', '5000'], 1, /^ddpm sample: --steps/],
      ['a number', ['sample', '--count', 'many'], 2, /--count: expected an integer of at least 1, got 'many'/],
      ['a range', ['sample', '--count', '0'], 2, /--count: expected an integer of at least 1, got '0'/],
      ['a choice', ['sample', '--sampler', 'eulr'], 2, /--sampler: 'eulr' is no sampler; .*; did you mean 'euler'\?/],
      [
        'noise levels twice',
        ['sample', '--sampler', 'LMS Karras', '--sigmas', 'beta'],
        2,
        /^ddpm sample: --sigmas goes/,
      ],
      ['noise levels', ['sample', '--sigmas', 'karras'], 2, /--sigmas goes with --sampler euler, .*unipc/],
      ['a missing value', ['sample', '--count', '--json'], 2, /--count needs a value/],
      ['a value too much', ['sample', '--json=yes'], 2, /--json takes no value/],
      ['an argument too much', ['info', 'a', 'b'], 2, /unexpected argument 'b'/],
      ['a preset that is none', ['train', 'x', '--preset', 'smal'], 2, /--preset: expected small or icons or cifar10/],
      ['yes and no', ['train', 'x', '--flip', '--no-flip'], 2, /--flip and --no-flip: give one of them/],
      ['a missing folder', ['train', '--out', 'y'], 2, /the folder of images is missing/],
      ['a missing --out', ['train', 'x'], 2, /--out <run> is missing/],
      ['options that exclude each other', ['sample', '--model', 'a', '--checkpoint', 'b'], 2, /give one of them/],
      ['an option without effect', ['sample', '--eta', '0.5'], 2, /--eta goes with --sampler ddim/],
      ['a mask without an image', ['sample', '--mask', 'm.png'], 2, /--mask goes with --init-image/],
      [
        'a seed of more than 64 bits',
        ['sample', '--seed', `${2n ** 64n}`],
        2,
        /--seed: expected an integer from 0 to 1844/,
      ],
      [
        'a memory limit',
        ['sample', '--memory-limit', '4 G'],
        2,
        /--memory-limit: expected bytes such as 4GB.*, got '4 G'/,
      ],
      [
        'a model that does not fit',
        ['sample', '--device', 'cpu', '--memory-limit', '5MB'],
        1,
        /^ddpm sample: --memory-limit: a .* needs .*B of the memory of cpu \(weights .*\), and the limit is 5 MB\. What would fit: .*/,
      ],
      ['one seed', ['sample', '--interpolate', '1'], 2, /--interpolate: expected two seeds/],
      ['a missing folder to evaluate', ['evaluate'], 2, /the folder of images is missing/],
      ['no image', ['sample', '--init-image', at('no.png')], 1, /^ddpm sample: cannot read the image .*no\.png/],
      ['no folder', ['train', at('nowhere'), '--out', at('r1')], 1, /^ddpm train: .*no such folder/],
      ['no checkpoint', ['sample', '--checkpoint', at('nowhere')], 1, /^ddpm sample: .*nowhere does not exist/],
      ['no model', ['info', at('nowhere.safetensors')], 1, /^ddpm info: .*nowhere\.safetensors/],
      ['a used run folder', ['train', data, '--out', run], 1, /holds a training already/],
      [
        'a changed option',
        ['train', '--resume', '--out', run, '--batch', '5'],
        1,
        /^ddpm train: --batch is 4 in the checkpoint/,
      ],
    ]
    for (const [name, args, code, pattern] of cases) {
      it(name, async () => {
        const result = await runCli(args)
        oneLine(result, pattern)
        assert.deepEqual([result.code, result.stdout], [code, ''])
      })
    }

    it('a training that does not fit', async () => {
      await writeImages(at('whole'), 4)
      const small = [...tinyFlags, '--steps', '3', '--memory-limit', '1.5MB']
      const result = await runCli(['train', at('whole'), '--out', at('small'), ...small])
      oneLine(result, /^ddpm train: --memory-limit: a .* needs .* and the limit is 1\.5 MB\. What would fit: .*/)
      assert.equal(result.code, 1)
    })

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

  it('warns of pictures that can not be written, and goes on', async () => {
    mkdirSync(at('warned'))
    writeFileSync(path.join(at('warned'), 'samples'), 'in the way')
    const args = ['train', data, '--out', at('warned'), ...tinyFlags, '--steps', '1', '--sample-every', '1']
    const first = await runCli([...args, '--sample-steps', '2', '--sample-count', '1'])
    assert.equal(first.code, 0, first.stderr)
    assert.match(first.stderr, /^warning: cannot write .*samples.*png: a part of its path is a file/m)
    const again = ['train', '--resume', '--out', at('warned'), '--steps', '2', '--json']
    const { code, stdout, stderr } = await runCli(again)
    assert.deepEqual([code, stderr], [0, ''])
    assert.match(stdout, /^\{"event":"warning","message":"cannot write .*samples/m)
  })

  it('warns once of steps that the device can not record', async () => {
    const env = { DDPM_HOST_REFUSES_RECORDING: 'begin' }
    const what = /^warning: a program is issued op by op in every run, as it cannot be recorded: \S.*/gm
    const train = ['train', data, '--out', at('direct'), ...tinyFlags, '--size', '4', '--batch', '1', '--steps', '3']
    const trained = await runCli([...train, '--device', 'cuda-host'], env)
    assert.equal(trained.code, 0, trained.stderr)
    assert.equal(trained.stderr.match(what)?.length, 1, trained.stderr)
    const sample = ['sample', '--checkpoint', at('direct'), '--device', 'cuda-host', '-n', '1', '-o', at('direct.png')]
    const drawn = await runCli([...sample, '--steps', '4'], env)
    assert.deepEqual([drawn.code, drawn.stderr.match(what)?.length], [0, 1], drawn.stderr)
    const json = await runCli([...sample, '--steps', '4', '--json'], env)
    assert.match(json.stdout, /^\{"event":"warning","message":"a program is issued op by op/m)
  })

  it('trains by a preset, which what is given comes before', async () => {
    const few = '--model-channels 32 --channel-mult 1 --attention none --size 8 --batch 2 --sample-every 0 --device cpu'
    const args = ['train', data, '--out', at('preset'), '--preset', 'small', ...few.split(' '), '--steps']
    assert.equal((await runCli([...args, '1'])).code, 0)
    const facts = async () => JSON.parse((await runCli(['info', at('preset'), '--json'])).stdout)
    const { model, training } = await facts()
    assert.deepEqual([training.lr, training.flip, training.warmup, training.batchSize], [1e-3, false, 0, 2])
    assert.deepEqual([model.parameterization, model.unetConfig.imageSize], ['v', 8])
    const again = await runCli(['train', '--resume', '--out', at('preset'), '--preset', 'icons', '--steps', '1'])
    assert.equal(again.code, 0, again.stderr)
    const flipped = await runCli([...args.with(3, at('preset-flip')), '1', '--flip'])
    assert.match(flipped.stdout, /mirrored at random/)
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
    const long = await runCli([
      'sample',
      '--checkpoint',
      run,
      '--seed',
      '6687881544318117707',
      '--json',
      '-n',
      '1',
      '-o',
      at('l.png'),
    ])
    assert.equal(long.code, 0, long.stderr)
    const wrong = await runCli(['sample', '--checkpoint', run, '--class', 'oak'])
    oneLine(wrong, /^ddpm sample: --class 'oak': there is no such class; expected one of Rose & Co, tulip$/m)
    assert.equal(wrong.code, 1)
  })

  describe('sample, by other ways than from noise to a grid', () => {
    const draw = async (...args: string[]) => {
      const { code, stderr } = await runCli([
        'sample',
        '--checkpoint',
        run,
        '--device',
        'cpu',
        '--deterministic',
        ...args,
      ])
      assert.equal(code, 0, stderr)
    }
    const rawPixels = (file: string) => sharp(file).removeAlpha().raw().toBuffer()

    it('writes an .npz file of the images, and of their classes', async () => {
      await draw('-n', '3', '--steps', '2', '--npz', at('three.npz'), '--separate', at('three'))
      const npz = readFileSync(at('three.npz'))
      const images = await Promise.all([0, 1, 2].map((i) => rawPixels(at('three', `0000${i}.png`))))
      assert.ok(npz.includes(Buffer.concat(images)))
      assert.ok(npz.includes("'shape': (3, 8, 8, 3)") && !npz.includes('arr_1'))
      const flowers = ['--checkpoint', at('flower-run'), '--class', 'tulip,rose', '-n', '3', '--steps', '2']
      assert.equal((await runCli(['sample', ...flowers, '--npz', at('flowers.npz')])).code, 0)
      const labels = BigInt64Array.of(1n, 0n, 1n)
      assert.ok(readFileSync(at('flowers.npz')).includes(Buffer.from(labels.buffer)))
    })

    it('begins with an image, or keeps the white part of a mask', async () => {
      const image = at('images', '0003.png')
      const fitted = await sharp(image).resize(8, 8, { fit: 'cover' }).removeAlpha().raw().toBuffer()
      const distance = async (name: string, ...args: string[]) => {
        await draw('-n', '2', '--steps', '4', ...args, '--separate', at(name))
        const pixels = await rawPixels(at(name, '00001.png'))
        return pixels.reduce((sum, v, i) => sum + Math.abs(v - fitted[i]), 0)
      }
      const little = await distance('little', '--init-image', image, '--strength', '0.25')
      const half = await distance('half', '--init-image', image)
      assert.ok(little > 0 && little < half, `${little} and ${half}`)
      assert.ok(half < (await distance('nothing')))

      const left = Uint8Array.from({ length: 64 }, (_, i) => (i % 8 < 4 ? 255 : 0))
      await sharp(left, { raw: { width: 8, height: 8, channels: 1 } })
        .png()
        .toFile(at('mask.png'))
      await draw('-n', '1', '--steps', '4', '--init-image', image, '--mask', at('mask.png'), '--separate', at('kept'))
      const kept = await rawPixels(at('kept', '00000.png'))
      const isKept = Array.from({ length: 64 }, (_, i) => [0, 1, 2].every((c) => kept[3 * i + c] === fitted[3 * i + c]))
      assert.ok(isKept.every((same, i) => i % 8 >= 4 || same))
      assert.ok(isKept.filter((same) => same).length < 50)
    })

    it('goes from one seed to another', async () => {
      await draw('--interpolate', '4,9', '-n', '3', '--steps', '4', '--separate', at('way'))
      const same = ['-n', '1', '--sampler', 'ddim', '--steps', '4', '--clip', 'no']
      for (const [i, seed] of [
        [0, '4'],
        [2, '9'],
      ] as const) {
        await draw(...same, '--seed', seed, '--separate', at(`end${i}`))
        assert.ok(readFileSync(at('way', `0000${i}.png`)).equals(readFileSync(at(`end${i}`, '00000.png'))))
      }
    })

    it('takes the options of each sampler, and schedulers of diffusers', async () => {
      const scheduler = { _class_name: 'DDIMScheduler', num_train_timesteps: 20, beta_start: 1e-4, beta_end: 0.02 }
      writeFileSync(at('scheduler.json'), JSON.stringify(scheduler))
      writeFileSync(at('heun.json'), JSON.stringify({ ...scheduler, _class_name: 'HeunDiscreteScheduler' }))
      const options = [
        '--sampler ddpm --steps 4 --spacing trailing --clip no',
        '--sampler ddim --steps 4 --eta 1 --discretize quad',
        '--sampler plms --steps 4 --discretize quad',
        '--sampler dpmsolver++ --steps 4 --order 3 --spacing linspace',
        '--sampler unipc --steps 4 --order 3 --clip yes',
        '--sampler euler-ancestral --steps 4 --eta 0.5 --sigmas karras',
        '--sampler lms --steps 3 --order 4 --spacing leading',
        '--sampler DPM++_SDE_Exponential --steps 4',
        `--scheduler ${at('scheduler.json')} --steps 4`,
        `--scheduler ${at('heun.json')} --steps 4`,
      ]
      const drawn: Buffer[] = []
      for (const [i, text] of options.entries()) {
        await draw('-n', '1', ...text.split(' '), '--separate', at(`sampler${i}`))
        drawn.push(readFileSync(at(`sampler${i}`, '00000.png')))
      }
      const pictures = drawn.map((png) => png.toString('base64'))
      const twice = options.filter((_, i) => pictures.indexOf(pictures[i]) !== pictures.lastIndexOf(pictures[i]))
      assert.deepEqual(twice, [])
    })
  })

  it('evaluates a model over a folder', async () => {
    const file = at('evaluation', 'bits.json')
    const args = ['evaluate', data, '--checkpoint', run, '--device', 'cpu', '--limit', '3', '--output', file]
    const { code, stdout, stderr } = await runCli(args)
    assert.equal(code, 0, stderr)
    const evaluation = JSON.parse(readFileSync(file, 'utf8'))
    assert.deepEqual([evaluation.images, evaluation.vb.length], [3, 20])
    assert.match(stdout, new RegExp(`^3 images: ${evaluation.bitsPerDim.toFixed(4)} bits/dim, `))
    assert.equal(stdout.match(/^ +\d+-\d+ /gm)?.length, 10)
    const json = await runCli([...args, '--json'])
    const { event, ...done } = JSON.parse(json.stdout.trimEnd().split('\n').at(-1)!)
    assert.deepEqual([event, done], ['done', { ...evaluation, file: at('evaluation', 'bits-1.json') }])
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
      const args = ['sample', ...model, '--count', '10000', '--batch', '1', '--output', at('never.png')]
      const child = startCli(args, { DDPM_DEBUG: 'plan' }) // says when it has begun to draw
      child.stderr!.once('data', () => child.kill('SIGINT'))
      const { code, stderr } = await ended(child)
      assert.equal(code, 130)
      assert.ok(!stderr.includes('ddpm sample:'))
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
