/** Images that lie encoded in one file, as in an archive or a table. */
import { decodeBytes, extentOf } from '../image-file'
import type { ImageSource, SourceOptions } from './source'

export interface EncodedImages
  extends Pick<ImageSource, 'length' | 'nameOf' | 'classes' | 'captionOf' | 'identity' | 'leftOut'> {
  bytesOf(item: number): Promise<Uint8Array>
}

export function encodedSource(file: string, images: EncodedImages, o: SourceOptions): ImageSource {
  const { bytesOf, ...rest } = images
  const placeOf = (i: number) => `${file}: ${images.nameOf(i)}`
  return {
    ...rest,
    name: file,
    read: async (i, look) => decodeBytes(await bytesOf(i), placeOf(i), look, o),
    sizeOf: async (i) => extentOf(await bytesOf(i), placeOf(i), o),
  }
}
