/** The numbers that a first stage's training logs, by upstream's names. */

/** Of a step or an evaluation; `total_loss` is the loss. */
const losses = {
  kl: ['total_loss', 'nll_loss', 'rec_loss', 'kl_loss'],
  codebook: ['total_loss', 'nll_loss', 'rec_loss', 'quant_loss'],
}

/** What can be monitored. */
export function autoencoderScalars(o: { validation: boolean; ema: boolean; codebook: boolean }): string[] {
  const own = losses[o.codebook ? 'codebook' : 'kl']
  const behind = o.validation ? ['', ...(o.ema ? ['_ema'] : [])] : []
  return [...behind.flatMap((ema) => own.map((name) => `val/${name}${ema}`)), ...own.map((name) => `train/${name}`)]
}
