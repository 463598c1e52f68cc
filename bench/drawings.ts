/** Pictures for trainings, drawn by a script: the same from the same seed. */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'

/** Numbers from 0 to 1. */
export type Random = () => number

/** Mulberry32. */
export function generator(seed: number): Random {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** `count` PNGs of 32x32 in the folder, each of what `draw` makes of its number: the inside of an SVG. Returns the folder. */
export async function drawPictures(
  folder: string,
  count: number,
  seed: number,
  draw: (random: Random, i: number) => string,
): Promise<string> {
  mkdirSync(folder, { recursive: true })
  const random = generator(seed)
  for (let i = 0; i < count; i++) {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32">${draw(random, i)}</svg>`
    const picture = sharp(Buffer.from(svg)).flatten({ background: 'white' })
    await picture.png().toFile(path.join(folder, `${String(i).padStart(3, '0')}.png`))
  }
  return folder
}

/** A round face of some colour with eyes and a mouth. */
export function face(random: Random): string {
  const [hue, eye, gap, smile, x, y] = Array.from({ length: 6 }, random)
  const [cx, cy] = [15 + 2 * x, 15 + 2 * y]
  const eyes = [-1, 1].map((side) => {
    return `<circle cx="${cx + side * (3.5 + 2 * gap)}" cy="${cy - 3}" r="${1.2 + eye}" fill="#332211"/>`
  })
  const mouth = `<path d="M${cx - 5} ${cy + 4} Q${cx} ${cy + 4 + 6 * (smile - 0.3)} ${cx + 5} ${cy + 4}" stroke="#332211" stroke-width="1.6" fill="none"/>`
  const head = `<circle cx="${cx}" cy="${cy}" r="12.5" fill="hsl(${30 + 30 * hue}, 95%, ${60 + 15 * hue}%)"/>`
  return `${head}${eyes.join('')}${mouth}`
}

/** Points of a star or of a regular polygon. */
function points(count: number, radius: (i: number) => number, turn: number): string {
  const corners = Array.from({ length: count }, (_, i) => {
    const angle = (2 * Math.PI * (i + turn)) / count - Math.PI / 2
    return `${(16 + radius(i) * Math.cos(angle)).toFixed(2)},${(16 + radius(i) * Math.sin(angle)).toFixed(2)}`
  })
  return corners.join(' ')
}

type Kind = (colours: { main: string; dark: string; other: string }, random: Random) => string

const kinds: readonly Kind[] = [
  ({ main }) => `<path d="M16 28 C2 18 4 6 11 6 C14 6 16 9 16 10 C16 9 18 6 21 6 C28 6 30 18 16 28" fill="${main}"/>`,
  ({ main }, random) => `<polygon points="${points(10, (i) => (i % 2 ? 6 : 13), 0.2 * random())}" fill="${main}"/>`,
  ({ main, dark, other }) =>
    `<rect x="7" y="15" width="18" height="13" fill="${main}"/><polygon points="4,16 16,4 28,16" fill="${dark}"/><rect x="13" y="20" width="6" height="8" fill="${other}"/>`,
  ({ main }) =>
    `<rect x="14" y="19" width="4" height="10" fill="#7a4a21"/><polygon points="16,3 27,21 5,21" fill="${main}"/>`,
  ({ main, dark }) =>
    `<ellipse cx="16" cy="13" rx="9" ry="10" fill="${main}"/><path d="M16 23 Q13 26 17 30" stroke="${dark}" fill="none" stroke-width="1.5"/>`,
  ({ main, dark, other }) =>
    `<path d="M3 21 L7 14 L13 11 L21 11 L26 16 L29 17 L29 22 L3 22" fill="${main}"/><rect x="13" y="13" width="7" height="4" fill="${other}"/><circle cx="9" cy="23" r="3.5" fill="${dark}"/><circle cx="23" cy="23" r="3.5" fill="${dark}"/>`,
  ({ main, other }) => {
    const petals = [0, 60, 120, 180, 240, 300].map(
      (turn) => `<ellipse cx="16" cy="8.5" rx="3.6" ry="5.5" fill="${main}" transform="rotate(${turn} 16 16)"/>`,
    )
    return `${petals.join('')}<circle cx="16" cy="16" r="4" fill="${other}"/>`
  },
  ({ main, dark }) =>
    `<ellipse cx="14" cy="16" rx="10" ry="7" fill="${main}"/><polygon points="22,16 30,9 30,23" fill="${main}"/><circle cx="9" cy="14" r="1.6" fill="${dark}"/>`,
  ({ main, other }) =>
    `<path d="M6 16 A10 10 0 0 1 26 16 Z" fill="${main}"/><rect x="13" y="16" width="6" height="11" rx="2" fill="${other}"/><circle cx="12" cy="11" r="2" fill="white"/><circle cx="19" cy="12" r="1.6" fill="white"/>`,
  ({ main, dark, other }) =>
    `<polygon points="3,21 29,21 24,28 8,28" fill="${dark}"/><rect x="15" y="4" width="1.6" height="17" fill="${dark}"/><polygon points="17,5 27,19 17,19" fill="${main}"/><polygon points="14.5,8 6,19 14.5,19" fill="${other}"/>`,
]

/** One of ten kinds of things in some colours: a heart, a star, a house, a tree, a balloon, a car, a flower, a fish, a mushroom, a boat. */
export function icon(random: Random, i: number): string {
  const hue = Math.floor(360 * random())
  const colours = {
    main: `hsl(${hue}, 80%, 52%)`,
    dark: `hsl(${(hue + 20) % 360}, 60%, 25%)`,
    other: `hsl(${(hue + 150 + Math.floor(60 * random())) % 360}, 85%, 65%)`,
  }
  return kinds[i % kinds.length](colours, random)
}
