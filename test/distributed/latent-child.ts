// A rank of a latent model's training: with captions, and a text encoder and logvar that are trained beside the network.
import { Trainer, type TrainOptions } from '../../lib/index'

/** `accumulate`: batches of a step of this process. */
export function latentTraining(folder: string, out: string, o: Partial<TrainOptions>): TrainOptions {
  return {
    data: `${folder}/photos`,
    out,
    firstStage: `${folder}/vae`,
    size: [16, 16],
    textEncoder: { nEmbed: 16, nLayer: 1, maxSeqLen: 6 },
    captionDropout: 0.5,
    validation: 0.2,
    validationEvery: 1,
    warmup: 0,
    batchSize: 1,
    sampleEvery: 0,
    device: 'cpu',
    model: {
      timesteps: 50,
      learnLogvar: true,
      unetConfig: { modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [1] },
    },
    ...o,
  }
}

if (require.main === module) {
  const [folder, out, steps, accumulate] = process.argv.slice(2)
  const own = { steps: Number(steps), accumulate: Number(accumulate), resume: true }
  new Trainer(latentTraining(folder, out, own)).run().catch((error) => {
    console.error(error)
    process.exit(1)
  })
}
