// Prints the timeline of a small network's training step. In a process of its own, whose devices are those of one GPU.
import { gpus } from '../../bench/model/gpus'
import { timelineOf } from '../../bench/model/scaling/timeline'

const unet = { imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 32, channelMult: [1, 2] }
const options = { ...unet, numResBlocks: 1, attentionResolutions: [2] }
process.stdout.write(JSON.stringify(timelineOf(gpus.H200, 'fp32', options, 1)))
