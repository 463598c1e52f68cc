/** Numbers that stay in their file until they are asked for: weights go from there straight into a bank. */

/** What becomes float32, by safetensors' names. */
export type FileDType = 'F32' | 'F16' | 'BF16' | 'F64'

/** A file that is opened again whenever something is read of it. */
export interface NumbersFile {
  /**
   * `fn` gets a descriptor that is open as long as it runs. Throws `bad-file` where the file is not the one that was looked at first, or
   * `fn` finds it shorter, `not-found`, and `io`.
   */
  use<T>(fn: (descriptor: number) => Promise<T>): Promise<T>
}

/** Of one tensor, one after the other in the order of its shape. */
export interface FileNumbers {
  readonly file: NumbersFile
  readonly dtype: FileDType
  /** Of the first, in bytes of the file. */
  readonly position: number
  /** All of them, anew each time. */
  read(): Promise<Float32Array>
}
