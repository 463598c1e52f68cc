import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { API, Diagnostic, Project } from 'typescript/unstable/sync' with { 'resolution-mode': 'import' }
import { LanguageServer } from '../support/language-server'
import { type Option, optionsCalls } from '../support/public-options'

const root = path.join(__dirname, '..', '..', '..')
const declarations = path.join(root, 'dist', 'lib')
const index = path.join(declarations, 'index.d.ts')

describe('in an editor', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-native-editor-'))
  const use = path.join(folder, 'use.ts')
  const head = "import * as library from 'ddpm-native'\n"
  let api: API

  before(async () => {
    const { API } = await import('typescript/unstable/sync')
    api = new API({ cwd: folder })
    const compilerOptions = {
      strict: true,
      noEmit: true,
      module: 'nodenext',
      target: 'es2023',
      lib: ['es2023', 'esnext.disposable'],
      types: ['node'],
      typeRoots: [path.join(root, 'node_modules', '@types')],
      paths: { 'ddpm-native': [index] },
    }
    writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['use.ts'] }))
  })
  after(() => {
    api.close()
    rmSync(folder, { recursive: true })
  })

  /** A project of one file with this text. */
  const project = (text: string): Project => {
    writeFileSync(use, head + text)
    const config = path.join(folder, 'tsconfig.json')
    return api.updateSnapshot({ openProjects: [config], fileChanges: { changed: [use] } }).getProject(config)!
  }
  const errors = (text: string) =>
    project(text)
      .program.getSemanticDiagnostics()
      .map((d) => d.text)

  it('every option of every public method says what it means, and its default', async () => {
    const found = await optionsCalls(project('library\n'), index, declarations)
    const calls = found.filter(({ method }) => !method.endsWith('UNet.build')) // takes parts of a graph
    assert.ok(calls.length > 25, `only ${calls.length} calls with options were found`)

    const lines = head.split('\n').slice(0, -1)
    const places: { option: string; line: number }[] = []
    const write = (options: readonly Option[], owner: string) => {
      for (const { name, options: inner } of options) {
        places.push({ option: `${owner}: ${name}`, line: lines.length })
        if (inner.length === 0) lines.push(`${name}: null!,`)
        else {
          lines.push(`${name}: {`)
          write(inner, `${owner}: ${name}`)
          lines.push('},')
        }
      }
    }
    for (const { method, before, after, options } of calls) {
      lines.push(`${before}{`)
      write(options, method)
      lines.push(`}${after};`)
    }
    const text = lines.join('\n')
    assert.deepEqual(errors(text.slice(head.length)), [])

    const server = await LanguageServer.start(folder)
    try {
      server.open(use, text)
      const bare: string[] = []
      for (const { option, line } of places) {
        const shown = await server.hover(use, line, 0)
        assert.match(shown, /\((property|method)\)/, `nothing is shown over ${option}`)
        const meaning = shown.split('```').at(-1)!.trim()
        const optional = /\(property\) [^\n]*\?:/.test(shown)
        if (!meaning) bare.push(`${option}: no meaning`)
        else if (optional && !/default|need|undefined|only/i.test(meaning))
          bare.push(`${option}: no default in '${meaning}'`)
      }
      assert.deepEqual(bare, [])
    } finally {
      await server.stop()
    }
  })

  it('an error names the option, and not how options are checked', () => {
    const wrong = [
      'new library.DDPM({ timestep: 10 })',
      "new library.DDPM({ timesteps: '10' })",
      "ddpm.sample({ samplr: 'ddim' })",
      "ddpm.sample({ timestepSpacing: 'trailling' })",
      'ddpm.interpolate({ seeds: [1, 2], cout: 3 })',
      'ddpm.configureOptimizers({ lr: 1, weightDecy: 0 })',
      "new library.Trainer({ data: 'a', out: 'b', model: { timestep: 10 } })",
      "new library.Trainer({ data: 'a', out: 'b', model: { unetConfig: { numHead: 1 } } })",
      'library.evaluate(ddpm, null!, { limt: 3 })',
      "library.saveImages('a.png', null!, { column: 3 })",
    ]
    const found = project(`declare const ddpm: library.DDPM\n${wrong.join('\n')}\n`).program.getSemanticDiagnostics()
    assert.equal(found.length, wrong.length)
    for (const [i, call] of wrong.entries()) {
      const text = allText(found[i])
      assert.match(text, /'(timestep|timesteps|samplr|cout|weightDecy|numHead|limt|column)'|Type '"trailling"'/, call)
      assert.doesNotMatch(text, /Parsed|Field<|SchemaOf|Partial</, `${call}: ${text}`)
    }
  })

  it('what is given decides what a sampling returns', () => {
    const text = `
      declare const ddpm: library.DDPM
      declare const options: library.SampleOptions
      declare const loop: library.PSampleLoopOptions
      declare const either: boolean
      export const a: Promise<library.Tensor>[] = [
        ddpm.sample(), ddpm.sample(options), ddpm.sample({ steps: 10, returnIntermediates: false }),
        ddpm.pSampleLoop([1, 3, 8, 8]), ddpm.pSampleLoop([1, 3, 8, 8], loop),
      ]
      export const b: Promise<library.LoopResult>[] = [
        ddpm.sample({ ...options, returnIntermediates: true }),
        ddpm.pSampleLoop([1, 3, 8, 8], { ...loop, returnIntermediates: true }),
      ]
      export const c: Promise<library.Tensor | library.LoopResult> = ddpm.sample({ returnIntermediates: either })
    `
    assert.deepEqual(errors(text), [])
  })

  it("a training's options are those of DDPM and UNet", () => {
    const text = `
      export const options: library.TrainOptions = {
        data: 'photos', out: 'run',
        model: { parameterization: 'v', zeroTerminalSnr: true, imageSize: 64, unetConfig: { imageSize: 64, dropout: 0.1 } },
      }
    `
    assert.deepEqual(errors(text), [])
    assert.equal(errors("new library.Trainer({ data: 'a', out: 'b', model: { parameterization: 'w' } })").length, 1)
  })
})

/** With what is said below it. */
function allText(diagnostic: Diagnostic): string {
  const { text, messageChain = [], relatedInformation = [] } = diagnostic
  return [text, ...[...messageChain, ...relatedInformation].map(allText)].join('\n')
}
