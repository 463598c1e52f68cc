/** A folder of images as an endless, reproducible sequence of training samples. */
import { Dataset, type DatasetOptions, prepared, sourceOptions } from './dataset'
import { folderSource } from './sources/folder'

export type ImageFolderOptions = DatasetOptions

/** See Dataset. */
export class ImageFolder extends Dataset {
  /** Relative paths with '/', in the order of their code units. */
  declare readonly files: readonly string[]

  /**
   * Lists the images below `folder` (recursively, by file extension, without hidden ones, through symbolic links) and checks their
   * headers. Links that lead nowhere or in a circle are unreadable.
   * Throws `not-found` and `io` for a folder or a file that cannot be read, `invalid-argument` for one without a readable image or, with
   * `classes`, with one that has no class.
   */
  static override async open(folder: string, options: ImageFolderOptions): Promise<ImageFolder> {
    const source = await folderSource(folder, sourceOptions(options))
    const dataset = new ImageFolder(source, options, ...(await prepared(source, options)))
    return Object.assign(dataset, { files: source.files })
  }

  get folder(): string {
    return this.name
  }
}
