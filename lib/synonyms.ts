/** What other libraries call an option: each row is one thing, by the names that are known for it, here and elsewhere. */
const rows: readonly (readonly string[])[] = [
  [
    'steps',
    'numInferenceSteps',
    'inferenceSteps',
    'samplingSteps',
    'ddimSteps',
    'samplingTimesteps',
    'numSteps',
    'nSteps',
  ],
  [
    'steps',
    'epochs',
    'numEpochs',
    'numTrainEpochs',
    'maxEpochs',
    'maxSteps',
    'maxTrainSteps',
    'trainNumSteps',
    'iterations',
  ],
  ['timesteps', 'numTrainTimesteps', 'numTimesteps', 'diffusionSteps', 'T'],
  ['lr', 'learningRate', 'baseLearningRate', 'trainLr'],
  ['warmup', 'lrWarmupSteps', 'warmupSteps', 'numWarmupSteps'],
  ['lrSchedule', 'lrScheduler', 'lrSchedulerType', 'scheduler'],
  ['seed', 'generator', 'randomSeed', 'manualSeed', 'randomState', 'rng'],
  ['batchSize', 'batch', 'trainBatchSize', 'evalBatchSize', 'numImagesPerPrompt', 'bs'],
  ['count', 'numSamples', 'numImages', 'nSamples', 'samples', 'n', 'batchSize'],
  ['accumulate', 'gradientAccumulationSteps', 'gradientAccumulateEvery', 'accumulateGradBatches'],
  ['maxGradNorm', 'clip', 'gradientClipVal', 'clipGradNorm', 'gradClip'],
  ['clipDenoised', 'clip', 'clipSample'],
  ['guidanceScale', 'guidance', 'cfgScale', 'cfg', 'condScale', 'unconditionalGuidanceScale'],
  ['guidingModel', 'gnet', 'guideModel', 'autoguidance', 'badModel'],
  ['classifier', 'classifierPath'],
  ['sigmaRel', 'phema', 'emaStd', 'emaSigmaRel'],
  ['classLabels', 'class', 'labels', 'classes', 'className', 'y'],
  ['classDropout', 'condDropProb', 'dropLabelProb'],
  ['imageSize', 'size', 'resolution', 'sampleSize', 'height', 'width'],
  ['inChannels', 'channels'],
  ['modelChannels', 'dim', 'baseChannels', 'numChannels', 'blockOutChannels'],
  ['channelMult', 'dimMults', 'chMult'],
  ['numResBlocks', 'resBlocks', 'layersPerBlock'],
  ['attentionResolutions', 'attention', 'attnResolutions'],
  ['numHeads', 'heads', 'attentionHeadDim'],
  ['betaSchedule', 'schedule', 'noiseSchedule'],
  ['parameterization', 'predictionType', 'objective', 'predictEpsilon', 'predictXstart'],
  ['lossType', 'loss', 'lossFn'],
  ['lossDelta', 'huberC', 'huberDelta', 'huberBeta'],
  ['emaDecay', 'ema', 'emaRate', 'emaMaxDecay'],
  ['sampleEvery', 'saveAndSampleEvery', 'saveImagesEpochs', 'logEveryT'],
  ['checkpointEvery', 'checkpointingSteps', 'saveInterval', 'saveEvery', 'saveModelEpochs'],
  ['out', 'outputDir', 'outDir', 'resultsFolder', 'logDir', 'output'],
  ['data', 'dataDir', 'dataset', 'trainDataDir', 'folder', 'dataroot'],
  ['resume', 'resumeFromCheckpoint', 'continue'],
  ['precision', 'mixedPrecision', 'fp16', 'bf16', 'amp', 'dtype', 'torchDtype', 'useFp16'],
  ['weightFormat', 'weights', 'weightDtype', 'quantize', 'quantization', 'loadIn8bit', 'torchDtype', 'variant'],
  ['device', 'gpu', 'gpus', 'cuda', 'useCuda', 'accelerator'],
  ['augment', 'augmentation', 'augmentProb', 'augmentProbability', 'aProb'],
  ['flip', 'randomFlip', 'augmentHorizontalFlip', 'mirror', 'noFlip'],
  ['image', 'initImage', 'initImg', 'inputImage'],
  ['mask', 'maskImage'],
  ['strength', 'denoisingStrength', 'noiseStrength'],
  ['eta', 'ddimEta'],
  ['sampler', 'samplerName', 'samplingMethod', 'method', 'useDdim'],
  ['timestepSpacing', 'spacing', 'timestepRespacing'],
  ['sigmas', 'sigmaSchedule', 'useKarrasSigmas', 'karras', 'scheduleType'],
  ['solverOrder', 'order'],
  ['onStep', 'callback', 'callbackOnStepEnd', 'stepCallback', 'progress', 'onProgress', 'imgCallback'],
  ['returnIntermediates', 'returnAllTimesteps', 'logIntermediates'],
  ['model', 'modelPath', 'modelId', 'ckpt', 'modelName', 'pretrainedModelNameOrPath'],
]

/** As options are compared: without case, dashes and underscores. */
export function plainName(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '')
}

const plainRows = rows.map((row) => row.map(plainName))

/** The known option that another name stands for. */
export function synonymOf(name: string, known: readonly string[]): string | undefined {
  const plain = plainName(name)
  for (const row of plainRows) {
    if (!row.includes(plain)) continue
    const found = known.filter((candidate) => row.includes(plainName(candidate)))
    if (found.length > 0) return found.sort((a, b) => row.indexOf(plainName(a)) - row.indexOf(plainName(b)))[0]
  }
  return undefined
}
