/** A UNet with two levels, attention and both kinds of resampling, of a fraction of a second's work. */
export const smallUNet = {
  imageSize: 8,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 32,
  channelMult: [1, 2],
  numResBlocks: 1,
  attentionResolutions: [2],
  numHeadChannels: 16,
}
