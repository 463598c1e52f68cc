/** Parameters that are trained with a network and are no part of it: those of a conditioning stage, a log variance for each timestep. */
import { ParameterTable } from '../../nn/parameters'
import type { TablePlace } from '../../parameter-slot'

export interface TrainedBeside {
  /** What is before the names in the model's state dict. */
  readonly prefix: string
  readonly parameters: ParameterTable
}

/** One table of the network's parameters and then of these, so that one optimizer goes through all; the network's lie where they lay. */
export function besideOf(
  network: ParameterTable,
  beside: readonly TrainedBeside[],
): { table: ParameterTable; places: readonly TablePlace[] } {
  if (beside.length === 0) return { table: network, places: [] }
  const table = new ParameterTable()
  table.append(network, '')
  let [offset, frozenOffset] = [network.count, network.frozenCount]
  const places = beside.map(({ prefix, parameters }) => {
    table.append(parameters, prefix)
    const place = { prefix, offset, frozenOffset }
    offset += parameters.count
    frozenOffset += parameters.frozenCount
    return place
  })
  return { table, places }
}
