/** What a model is told of the classes of images. */
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { DiffusionError, invalidArgument } from '../errors'

/**
 * The model's labels of a batch: classes are matched by name, and images without classes are of the null class. Undefined where the
 * model takes none. Throws `invalid-argument` for classes that the model does not have.
 */
export function labelsFor(
  ddpm: DDPM,
  data: TrainingData,
): ((n: number, labels: Int32Array | undefined) => Int32Array) | undefined {
  if (ddpm.network?.numClasses === undefined) {
    if (data.classNames) throw invalidArgument('classes', 'nothing for a model without classes', data.classNames)
    return undefined
  }
  if (data.classNames) {
    const own = data.classNames.map((name) => {
      const label = ddpm.classNames.indexOf(name)
      if (label < 0) throw invalidArgument('classes', `classes of the model: ${ddpm.classNames.join(', ')}`, name)
      return label
    })
    return (_, labels) => labels!.map((label) => own[label])
  }
  const { nullClass } = ddpm
  if (nullClass === undefined) {
    const message = 'classes: the model wants to know the classes of the images, and has no null class'
    throw new DiffusionError('invalid-argument', message, { argument: 'classes' })
  }
  return (n) => new Int32Array(n).fill(nullClass)
}

/** The same in a training; labels of data whose classes have no names are the model's already. */
export function trainedLabels(
  ddpm: DDPM,
  data: TrainingData,
): (n: number, labels: Int32Array | undefined) => Int32Array | undefined {
  const ofClasses = ddpm.network?.numClasses !== undefined
  const named = data.classNames ? labelsFor(ddpm, data) : undefined
  return (n, labels) => {
    if (labels) return named ? named(n, labels) : labels
    return ofClasses ? labelsFor(ddpm, data)!(n, undefined) : undefined
  }
}
