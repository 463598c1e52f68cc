import type { Case } from '../harness'
import { decodeCases } from './decode'
import { evaluateCases } from './evaluate'
import { opCases } from './ops'
import { samplingCases } from './sampling'
import { trainingCases } from './training'
import { unetCases } from './unet'

export const cases: readonly Case[] = [
  ...opCases,
  ...unetCases,
  ...trainingCases,
  ...samplingCases,
  ...decodeCases,
  ...evaluateCases,
]
