/** Hostile images: bombs of few bytes and many pixels, headers that lie, documents that are programs. */
import { deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { type Corpus, file, type Input, type Seed, seed, slow } from '../support/input'

const readers = ['image', 'image-folder']

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1
  return c >>> 0
})

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  let crc = 0xffffffff
  for (const byte of body) crc = crcTable[(crc ^ byte) & 0xff] ^ (crc >>> 8)
  const result = Buffer.alloc(8 + data.length + 4)
  result.writeUInt32BE(data.length)
  body.copy(result, 4)
  result.writeUInt32BE((crc ^ 0xffffffff) >>> 0, 8 + data.length)
  return result
}

/** A PNG of any size, whose pixels are `pixels`, deflated; more chunks before them. */
function png(
  width: number,
  height: number,
  o: { depth?: number; colour?: number; interlaced?: boolean; pixels?: Uint8Array; before?: Uint8Array[] },
): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width >>> 0)
  header.writeUInt32BE(height >>> 0, 4)
  header.set([o.depth ?? 8, o.colour ?? 2, 0, 0, o.interlaced ? 1 : 0], 8)
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')
  const data = chunk('IDAT', deflateSync(o.pixels ?? Buffer.alloc(0), { level: 9 }))
  return Buffer.concat([signature, chunk('IHDR', header), ...(o.before ?? []), data, chunk('IEND', Buffer.alloc(0))])
}

const compressedText = (keyword: string, size: number) =>
  Buffer.concat([Buffer.from(`${keyword}\0\0`, 'latin1'), deflateSync(Buffer.alloc(size, 0x41), { level: 9 })])

const plain = (width: number, height: number, channels: 1 | 3 = 3) =>
  sharp({
    create: { width, height, channels: channels === 1 ? 3 : channels, background: 'red' },
    limitInputPixels: false,
  })

const image = (
  name: string,
  fileName: string,
  bytes: () => Uint8Array | string | Promise<Uint8Array | string>,
): Input => file(`image: ${name}`, readers, fileName, bytes)

const svg = (name: string, inner: string, attributes = 'width="64" height="64"', prolog = '') =>
  image(`svg ${name}`, 'x.svg', () => `${prolog}<svg xmlns="http://www.w3.org/2000/svg" ${attributes}>${inner}</svg>`)

function entities(): string {
  const lines = ['<!ENTITY a0 "xxxxxxxxxx">']
  for (let i = 1; i < 12; i++) lines.push(`<!ENTITY a${i} "${`&a${i - 1};`.repeat(10)}">`)
  return `<!DOCTYPE svg [${lines.join('')}]>`
}

/** GIF89a with `frames` frames of one pixel each on a canvas of any size. */
function gif(width: number, height: number, frames: number): Buffer {
  const size = Buffer.alloc(4)
  size.writeUInt16LE(width)
  size.writeUInt16LE(height, 2)
  const frame = Buffer.from([0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0])
  return Buffer.concat([
    Buffer.from('GIF89a'),
    size,
    Buffer.from([0x80, 0, 0, 0, 0, 0, 255, 255, 255]),
    ...Array(frames).fill(frame),
    Buffer.from([0x3b]),
  ])
}

/** A TIFF of one strip with these tags. */
function tiff(tags: readonly (readonly [tag: number, type: number, count: number, value: number])[]): Buffer {
  const directory = Buffer.alloc(2 + 12 * tags.length + 4)
  directory.writeUInt16LE(tags.length)
  for (const [i, [tag, type, count, value]] of tags.entries()) {
    directory.writeUInt16LE(tag, 2 + 12 * i)
    directory.writeUInt16LE(type, 4 + 12 * i)
    directory.writeUInt32LE(count >>> 0, 6 + 12 * i)
    directory.writeUInt32LE(value >>> 0, 10 + 12 * i)
  }
  return Buffer.concat([Buffer.from('II*\0\x08\0\0\0', 'latin1'), directory, Buffer.alloc(64)])
}

const tiffOf = (width: number, height: number, more: Parameters<typeof tiff>[0] = []) =>
  tiff([
    [256, 4, 1, width],
    [257, 4, 1, height],
    [258, 3, 1, 8],
    [259, 3, 1, 1],
    [262, 3, 1, 1],
    [273, 4, 1, 8],
    [277, 3, 1, 1],
    [278, 4, 1, height],
    [279, 4, 1, 64],
    ...more,
  ])

const bombs: Input[] = [
  slow(
    image('interlaced png of 16000 x 16000', 'x.png', () =>
      plain(16000, 16000).png({ compressionLevel: 9, progressive: true }).toBuffer(),
    ),
  ),
  slow(
    image('interlaced png of 8000 x 8000', 'x.png', () =>
      plain(8000, 8000).png({ compressionLevel: 9, progressive: true }).toBuffer(),
    ),
  ),
  slow(image('png of 16000 x 16000', 'x.png', () => plain(16000, 16000).png({ compressionLevel: 9 }).toBuffer())),
  slow(
    image('progressive jpeg of 12000 x 12000', 'x.jpg', () =>
      plain(12000, 12000).jpeg({ progressive: true }).toBuffer(),
    ),
  ),
  slow(image('jpeg of 65000 x 4000', 'x.jpg', () => plain(65000, 4000).jpeg().toBuffer())),
  slow(image('webp of 8000 x 8000', 'x.webp', () => plain(8000, 8000).webp({ effort: 0 }).toBuffer())),
  slow(
    image('tiled tiff of 12000 x 12000', 'x.tif', () =>
      plain(12000, 12000).tiff({ compression: 'deflate', tile: true }).toBuffer(),
    ),
  ),
  slow(image('tiff of 12000 x 12000', 'x.tif', () => plain(12000, 12000).tiff({ compression: 'deflate' }).toBuffer())),
  slow(image('avif of 4000 x 4000', 'x.avif', () => plain(4000, 4000).avif({ effort: 0 }).toBuffer())),
  ...[
    [0, 0],
    [1, 2 ** 31 - 1],
    [2 ** 31 - 1, 1],
    [2 ** 31 - 1, 2 ** 31 - 1],
    [2 ** 32 - 1, 1],
    [16383, 16383],
    [100_000, 100_000],
  ].flatMap(([width, height]) => [
    image(`png header of ${width} x ${height}`, 'x.png', () => png(width, height, {})),
    image(`interlaced png header of ${width} x ${height}`, 'x.png', () => png(width, height, { interlaced: true })),
    image(`tiff header of ${width} x ${height}`, 'x.tif', () => tiffOf(width, height)),
    svg(`of ${width} x ${height}`, '<rect width="1" height="1"/>', `width="${width}" height="${height}"`),
  ]),
  slow(image('png with 500 MB of pixels for 8 x 8', 'x.png', () => png(8, 8, { pixels: Buffer.alloc(5e8) }))),
  slow(
    image('png with a text of 1 GB', 'x.png', () =>
      png(8, 8, { pixels: Buffer.alloc(200), before: [chunk('zTXt', compressedText('a', 1e9))] }),
    ),
  ),
  slow(
    image('png with a profile of 1 GB', 'x.png', () =>
      png(8, 8, { pixels: Buffer.alloc(200), before: [chunk('iCCP', compressedText('a', 1e9))] }),
    ),
  ),
  image('png with 100000 chunks', 'x.png', () =>
    png(8, 8, { pixels: Buffer.alloc(200), before: Array(100_000).fill(chunk('tEXt', Buffer.from('a\0b'))) }),
  ),
  image('gif of 65535 x 65535', 'x.gif', () => gif(65535, 65535, 1)),
  image('gif of 100000 frames', 'x.gif', () => gif(1000, 1000, 100_000)),
  image('gif without frames', 'x.gif', () => gif(10, 10, 0)),
  image('tiff whose directory is its own next', 'x.tif', () => {
    const bytes = tiffOf(8, 8)
    bytes.writeUInt32LE(8, bytes.length - 68)
    return bytes
  }),
  image('tiff with 2^32 - 1 samples', 'x.tif', () => tiffOf(8, 8, [[338, 3, 0xffffffff, 0]])),
  image('tiff of 65535 channels', 'x.tif', () => tiffOf(8, 8, [[277, 3, 1, 65535]])),
  svg(
    'with filters',
    '<filter id="f"><feTurbulence baseFrequency="0.05" numOctaves="100"/><feGaussianBlur stdDeviation="900"/></filter>' +
      '<rect width="16000" height="16000" filter="url(#f)"/>',
    'width="16000" height="16000"',
  ),
  svg('with entities', '<text>&a11;</text>', 'width="8" height="8"', entities()),
  svg(
    'with uses of one another',
    `<defs><g id="a0"><rect width="1" height="1"/></g>${Array.from({ length: 30 }, (_, i) => `<g id="a${i + 1}"><use href="#a${i}"/><use href="#a${i}"/></g>`).join('')}</defs><use href="#a30"/>`,
  ),
  svg('with a file', '<image href="file:///etc/passwd" width="8" height="8"/>'),
  svg(
    'with an entity of a file',
    '<text>&x;</text>',
    'width="8" height="8"',
    '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
  ),
  svg('deep', `${'<g>'.repeat(100_000)}${'</g>'.repeat(100_000)}`),
  svg(
    'with a pattern of patterns',
    `${Array.from(
      { length: 20 },
      (_, i) =>
        `<pattern id="p${i}" width="1" height="1"><rect width="999" height="999" fill="url(#p${(i + 1) % 20})"/></pattern>`,
    ).join('')}<rect width="64" height="64" fill="url(#p0)"/>`,
  ),
  ...['png', 'jpg', 'gif', 'webp', 'tif', 'avif', 'heic', 'svg', 'jfif', 'bmp'].flatMap((extension) => [
    image(`nothing.${extension}`, `x.${extension}`, () => ''),
    image(`zeros.${extension}`, `x.${extension}`, () => Buffer.alloc(1000)),
    image(`a pdf.${extension}`, `x.${extension}`, () => '%PDF-1.4\n1 0 obj\n<<>>\nendobj\n'),
    image(
      `an svg.${extension}`,
      `x.${extension}`,
      () => '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    ),
    image(`a vips file.${extension}`, `x.${extension}`, () =>
      Buffer.concat([Buffer.from('b6a6f208', 'hex'), Buffer.alloc(60, 0x7f)]),
    ),
  ]),
]

/** A picture of every format, with something in it. */
async function seeds(): Promise<Seed[]> {
  const picture = (size: number) => {
    const data = Uint8Array.from({ length: size * size * 3 }, (_, i) => (i * i) >> 3)
    return sharp(data, { raw: { width: size, height: size, channels: 3 } })
  }
  const of = async (name: string, bytes: Promise<Buffer>) =>
    seed(`image ${name}`, ['image'], `x.${name.split(' ')[0]}`, await bytes)
  const frames = sharp(Buffer.alloc(16 * 64 * 3), { raw: { width: 16, height: 64, channels: 3, pageHeight: 16 } })
  return [
    await of('png', picture(24).png().toBuffer()),
    await of('png interlaced', picture(24).png({ progressive: true, palette: true }).toBuffer()),
    await of(
      'jpg',
      picture(24)
        .jpeg()
        .withExif({ IFD0: { Copyright: 'x' } })
        .toBuffer(),
    ),
    await of('jpg progressive', picture(24).jpeg({ progressive: true }).withMetadata().toBuffer()),
    await of('webp', picture(24).webp().toBuffer()),
    await of('webp lossless', picture(24).webp({ lossless: true }).toBuffer()),
    await of('gif', frames.gif().toBuffer()),
    await of('tif', picture(24).tiff({ compression: 'lzw' }).toBuffer()),
    await of(
      'tif tiled',
      picture(64).tiff({ compression: 'jpeg', tile: true, tileWidth: 16, tileHeight: 16 }).toBuffer(),
    ),
    await of('avif', picture(24).avif({ effort: 0 }).toBuffer()),
    await of(
      'svg',
      Promise.resolve(
        Buffer.from(
          '<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"><g transform="scale(2)"><circle r="9" fill="url(#a)"/></g><linearGradient id="a"><stop offset="1" stop-color="red"/></linearGradient></svg>',
        ),
      ),
    ),
  ]
}

export async function imageCorpus(): Promise<Corpus> {
  return {
    bombs,
    seeds: await seeds(),
    snippets: [
      '\xff\xd8',
      '\xff\xc2',
      '\xff\xda',
      'IHDR',
      'IDAT',
      'fcTL',
      '\x2c',
      '\x21\xf9',
      'RIFF',
      'VP8X',
      'ftyp',
      'mdat',
      'II*\0',
      '<use href="#a"/>',
      '999999',
      '\0\0\0\0',
    ],
  }
}
