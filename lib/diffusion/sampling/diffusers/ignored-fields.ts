/** What is said of fields that a configuration of diffusers has beyond those of its class, which diffusers ignores, too. */
import { quote } from '../../../errors'
import { closest } from '../../../options'

/** EMAModel's, which it writes into the config.json of averaged weights. */
const emaFields = [
  ...['decay', 'inv_gamma', 'min_decay', 'min_value', 'max_value', 'optimization_step', 'power'],
  ...['update_after_step', 'use_ema_warmup'],
]
/** A file may have any number. */
const most = 20

/** What of a configuration has no meaning here. */
export interface Ignored {
  readonly names: readonly string[]
  /** The class that does not have them, and the fields that it has. */
  readonly owner: string
  readonly known: readonly string[]
}

/** A line for each, and one for EMAModel's; each begins with the file. */
export function ignoredFields(file: string, { names, owner, known }: Ignored): string[] {
  const ofEma = names.filter((name) => emaFields.includes(name))
  const others = names.filter((name) => !emaFields.includes(name))
  const lines = others.slice(0, most).map((name) => {
    const likely = closest(name, known)
    const hint = likely ? `; did you mean '${likely}'?` : ''
    return `${file}: ${quote(name)} is no field of ${owner}, and is ignored, as diffusers does${hint}`
  })
  if (others.length > most) lines.push(`${file}: ${others.length - most} more fields are ignored`)
  if (ofEma.length > 0) lines.push(`${file}: the fields of EMAModel are ignored: ${ofEma.join(', ')}`)
  return lines
}
