import assert from 'node:assert/strict'
import { applyWeights, parsePromptWeights } from '../../lib/text/prompt-weights'

describe('weights of a prompt', () => {
  const cases: readonly [prompt: string, parts: readonly [text: string, weight: number][]][] = [
    ['a red cat', [['a red cat', 1]]],
    ['', [['', 1]]],
    [
      'a (red) cat',
      [
        ['a ', 1],
        ['red', 1.1],
        [' cat', 1],
      ],
    ],
    [
      'a (red:1.3) cat',
      [
        ['a ', 1],
        ['red', 1.3],
        [' cat', 1],
      ],
    ],
    [
      'a (red: 1.5 ) cat',
      [
        ['a ', 1],
        ['red', 1.5],
        [' cat', 1],
      ],
    ],
    [
      '(red:.5)(blue:2.)',
      [
        ['red', 0.5],
        ['blue', 2],
      ],
    ],
    [
      '(minus:-1)(plus:+2)',
      [
        ['minus', -1],
        ['plus', 2],
      ],
    ],
    [
      'a ((red)) cat',
      [
        ['a ', 1],
        ['red', 1.1 * 1.1],
        [' cat', 1],
      ],
    ],
    [
      'a [red] cat',
      [
        ['a ', 1],
        ['red', 1 / 1.1],
        [' cat', 1],
      ],
    ],
    ['[[red]]', [['red', 1 / 1.1 / 1.1]]],
    [
      '(a [b] c)',
      [
        ['a ', 1.1],
        ['b', 1.1 / 1.1],
        [' c', 1.1],
      ],
    ],
    [
      '(a (b:2) c:1.5)',
      [
        ['a ', 1.5],
        ['b', 3],
        [' c', 1.5],
      ],
    ],
    ['\\(a\\) \\[b\\] \\\\', [['(a) [b] \\', 1]]],
    ['a\\b', [['ab', 1]]],
    ['end\\', [['end', 1]]],
    ['(unbalanced', [['unbalanced', 1.1]]],
    [
      '((a) b',
      [
        ['a', 1.1 * 1.1],
        [' b', 1.1],
      ],
    ],
    ['[unbalanced', [['unbalanced', 1 / 1.1]]],
    ['a) b] c', [['a) b] c', 1]]],
    ['at 12:30 or 1:2)', [['at 12:30 or 1:2)', 1]]],
    ['(at 12:30)', [['at 12', 30]]],
    ['(a: b)', [['a: b', 1.1]]],
    ['(a:1.2.3)', [['a:1.2.3', 1.1]]],
    [
      'a[b:1.5]',
      [
        ['a', 1],
        ['b:1.5', 1 / 1.1],
      ],
    ],
    ['(a)(b)', [['ab', 1.1]]],
    // The example of the web UI's docstring.
    [
      'a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).',
      [
        ['a ', 1],
        ['house', 1.3 * 1.1 * 1.1],
        [' ', 1.1],
        ['on', (1 / 1.1) * 1.1],
        [' a ', 1.1],
        ['hill', 0.5 * 1.1],
        [', sun, ', 1.1],
        ['sky', 1.1 ** 4],
        ['.', 1.1],
      ],
    ],
  ]
  for (const [prompt, expected] of cases) {
    it(JSON.stringify(prompt), () => {
      const parts = parsePromptWeights(prompt)
      assert.deepEqual(
        parts.map(({ text }) => text),
        expected.map(([text]) => text),
      )
      parts.forEach(({ weight }, i) => {
        assert.ok(Math.abs(weight - expected[i][1]) < 1e-12, `${weight}, expected ${expected[i][1]}`)
      })
    })
  }

  it('multiplies the states of a token, and keeps the mean of each text', () => {
    // Two texts of two tokens of two channels.
    const states = Float32Array.of(1, 2, 3, 4, 1, 1, 2, 2)
    applyWeights(states, Float32Array.of(1, 2, 1, 1), 2)
    const factor = 10 / 17
    const expected = [1 * factor, 2 * factor, 6 * factor, 8 * factor, 1, 1, 2, 2]
    states.forEach((v, i) => {
      assert.ok(Math.abs(v - expected[i]) < 1e-6, `${v}, expected ${expected[i]}`)
    })
  })

  it('leaves nothing that is no number where all weights are 0', () => {
    const states = Float32Array.of(1, 2)
    applyWeights(states, Float32Array.of(0, 0), 1)
    assert.deepEqual([...states], [0, 0])
  })
})
