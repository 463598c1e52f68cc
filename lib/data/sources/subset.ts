/** Some items of a source, such as those that are trained on and those that are held out. */
import type { ClassLabelling } from '../class-labels'
import type { ImageSource } from './source'

/** The items of these numbers, in their order. */
export function subset(source: ImageSource, items: ArrayLike<number>): ImageSource {
  const pick = (classes: ClassLabelling) => ({
    names: classes.names,
    labels: Int32Array.from(items, (item) => classes.labels[item]),
  })
  return {
    name: source.name,
    length: items.length,
    nameOf: (i) => source.nameOf(items[i]),
    classes: source.classes && pick(source.classes),
    ownClasses: source.ownClasses && pick(source.ownClasses),
    captionOf: source.captionOf && ((i) => source.captionOf!(items[i])),
    identity: [source.identity, Array.from(items)],
    leftOut: source.leftOut,
    read: (i, look) => source.read(items[i], look),
    sizeOf: (i) => source.sizeOf(items[i]),
  }
}
