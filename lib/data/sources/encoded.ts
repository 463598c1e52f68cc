/** Images that lie encoded in one file, as in an archive or a table. */
import { decodeBytes, extentOf } from '../image-file'
import type { ImageSource, SourceOptions } from './source'

export interface EncodedImages extends Pick<ImageSource, 'classes' | 'captionOf' | 'identity' | 'leftOut'> {
  /** Of the items, within the file. */
  readonly names: readonly string[]
  bytesOf(item: number): Promise<Uint8Array>
}

export function encodedSource(file: string, images: EncodedImages, o: SourceOptions): ImageSource {
  const { names, bytesOf, ...rest } = images
  const nameOf = (i: number) => `${file}: ${names[i]}`
  return {
    ...rest,
    name: file,
    length: names.length,
    nameOf: (i) => names[i],
    read: async (i, look) => decodeBytes(await bytesOf(i), nameOf(i), look, o),
    sizeOf: async (i) => extentOf(await bytesOf(i), nameOf(i), o),
  }
}
