/** The losses of ldm's first stages as sums over samples: contperceptual.py's and vqperceptual.py's. */
import { invalidArgument } from '../errors'
import type { AutoencoderTrainingOptions } from './options'

/** Of each sample, [n]: the mean distance of its numbers, its perceptual distance included, and its divergence in nats or its codebook's loss. */
export interface SampleTerms {
  readonly error: Float32Array
  readonly regularizer: Float32Array
}

/** A loss without the discriminator's term. */
export interface FirstStageLoss {
  /** What each sample's terms count for in the total of n samples of d numbers. */
  weights(n: number, d: number): { readonly error: number; readonly regularizer: number }
  /** The total, and what upstream logs, without the prefix of the split. */
  log(terms: SampleTerms, d: number): { readonly loss: number; readonly log: Readonly<Record<string, number>> }
}

const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length

/**
 * LPIPSWithDiscriminator: |x - reconstruction| / exp(logvar) + logvar, summed over a sample's numbers, and the divergence; both divided
 * by the batch.
 */
class KlLoss implements FirstStageLoss {
  constructor(
    readonly klWeight: number,
    readonly logvar: number,
  ) {}

  weights(n: number, d: number) {
    return { error: d / (n * Math.exp(this.logvar)), regularizer: this.klWeight / n }
  }

  log({ error, regularizer }: SampleTerms, d: number) {
    const { logvar, klWeight } = this
    const rec = mean(error)
    const nll = d * (rec / Math.exp(logvar) + logvar)
    const kl = mean(regularizer)
    const loss = nll + klWeight * kl
    return { loss, log: { total_loss: loss, logvar, kl_loss: kl, nll_loss: nll, rec_loss: rec } }
  }
}

/** VQLPIPSWithDiscriminator: the mean over all numbers, and the codebook's loss. */
class CodebookLoss implements FirstStageLoss {
  constructor(readonly codebookWeight: number) {}

  weights(n: number) {
    return { error: 1 / n, regularizer: this.codebookWeight / n }
  }

  log({ error, regularizer }: SampleTerms) {
    const nll = mean(error)
    const quant = mean(regularizer)
    const loss = nll + this.codebookWeight * quant
    return { loss, log: { total_loss: loss, quant_loss: quant, nll_loss: nll, rec_loss: nll } }
  }
}

/** Throws `invalid-argument` for options of the other. */
export function lossOf(
  {
    klWeight,
    logvarInit,
    codebookWeight,
  }: Pick<AutoencoderTrainingOptions, 'klWeight' | 'logvarInit' | 'codebookWeight'>,
  hasCodebook: boolean,
): FirstStageLoss {
  const others = hasCodebook ? { klWeight, logvarInit } : { codebookWeight }
  const what = hasCodebook ? 'with a codebook' : 'without a codebook'
  for (const [name, value] of Object.entries(others)) {
    if (value !== undefined) throw invalidArgument(name, `nothing ${what}`, value)
  }
  return hasCodebook ? new CodebookLoss(codebookWeight ?? 1) : new KlLoss(klWeight ?? 1, logvarInit ?? 0)
}
