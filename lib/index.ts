/** The public surface of the library. */
// First of all: it makes room where address space is limited, before other modules and their threads take it.
import './native'

export type { DiscriminatorLoss } from './autoencoder/adversarial-loss'
export type { DiscriminatorState } from './autoencoder/discriminator'
export type {
  AutoencoderLossOptions,
  AutoencoderStepOptions,
  AutoencoderTrainingOptions,
  AutoencoderValidationOptions,
} from './autoencoder/options'
export type { OptimizedState } from './autoencoder/trained-weights'
export {
  type AutoencoderStepResult,
  AutoencoderTraining,
  type AutoencoderTrainingState,
  type TrainableFirstStage,
} from './autoencoder/training'
export type { HubOptions } from './checkpoint/hub/snapshot'
export type { UploadOptions, UploadResult } from './checkpoint/hub/upload'
export type { LoraNames } from './checkpoint/lora-file'
export type { DownloadOptions } from './convert/download'
export { type LoadModelOptions, loadModel } from './convert/load-model'
export type { Shape2 } from './data/buckets'
export type { ClassLabelling, ClassSource } from './data/class-labels'
export { type Crop, Dataset, type DatasetOptions } from './data/dataset'
export { type ReadImageOptions, readImage } from './data/image-file'
export { ImageFolder, type ImageFolderOptions } from './data/image-folder'
export type { GridOptions } from './data/image-grid'
export type { Fit, Look, Picture } from './data/picture'
export {
  type CanvasPixels,
  encodePng,
  type SaveImagesOptions,
  saveImages,
  toPixels,
} from './data/save-images'
export type { ImageSource, Range, UnreadableFile } from './data/sources/source'
export type { UserBatch, UserBatches, UserData, UserImage, UserItems, UserPicture } from './data/sources/user'
export type { ImageBatch, TrainingData } from './data/training-data'
export { Device, type DeviceName, type DeviceOptions, type MemoryInfo } from './device'
export {
  Classifier,
  type ClassifierEvaluateOptions,
  type ClassifierFileOptions,
  type ClassifierOptions,
  type ClassifierResult,
  type ClassifierSettings,
  type ClassifierTrainOptions,
} from './diffusion/classifier/classifier'
export type { CompVisStages } from './diffusion/formats/compvis-config'
export { type CompVisConfig, readCompVisConfig } from './diffusion/formats/compvis-config'
export type { CompVisStage } from './diffusion/formats/compvis-stages'
export type { LatentConfigOptions } from './diffusion/formats/latent-from-config'
export type { CheckpointReport, InitFromCkptOptions } from './diffusion/formats/pretrained'
export type { PushToHubOptions, PushToHubResult } from './diffusion/formats/push-to-hub'
export type { SingleFileOptions } from './diffusion/formats/single-file'
export type { LoadReport } from './diffusion/formats/state'
export {
  BoundingBoxes,
  type BoundingBoxesOptions,
  type Box,
  type LayoutObject,
  type LayoutOptions,
} from './diffusion/latent/bounding-boxes'
export type { Cond, CondDict, ConditioningKey } from './diffusion/latent/conditioning'
export type { ScoreCorrector } from './diffusion/latent/score-corrector'
export type { SplitInputParams } from './diffusion/latent/split-input'
export type { CondStage, FirstStage as LatentFirstStage, LatentStage, Posterior } from './diffusion/latent/stages'
export type { Batch } from './diffusion/models/batch'
export { DDPM } from './diffusion/models/ddpm'
export { DiffusionModel } from './diffusion/models/diffusion-model'
export { LatentDiffusion, type MeanVariance, type ProgressiveResult } from './diffusion/models/latent-diffusion'
export {
  type DifferentiableImages,
  type EncodingOptions,
  type LatentInput,
  LatentModel,
} from './diffusion/models/latent-model'
export {
  Layout2ImgDiffusion,
  type Layout2ImgDiffusionOptions,
  type LayoutConfigOptions,
  type LayoutLoggedImages,
  type LayoutOnlyOptions,
} from './diffusion/models/layout2img-diffusion'
export type { LoraSource, WithLorasOptions } from './diffusion/models/lora'
export { makeGrid } from './diffusion/models/make-grid'
export type {
  DDPMOptions,
  ImageOptions,
  InterpolateOptions,
  LoggedImages,
  LogImagesOptions,
  PretrainedOptions,
  SampleOptions,
  SaveLoraOptions,
  SavePretrainedOptions,
} from './diffusion/options/ddpm-options'
export type {
  CondOptions,
  DecodeOptions,
  LatentChainOptions,
  LatentDiffusionOptions,
  LatentInterpolateOptions,
  LatentLoggedImages,
  LatentLogImagesOptions,
  LatentLoopOptions,
  LatentLossOptions,
  LatentPMeanVarianceOptions,
  LatentPSampleOptions,
  LatentSampleOptions,
  LatentStepOptions,
  LatentTrainOptions,
  ProgressiveOptions,
  ReturnX0,
  SampleLogOptions,
  SaveLatentOptions,
} from './diffusion/options/latent-options'
export type {
  CalcBpdOptions,
  ConditionOptions,
  LoadStateDictOptions,
  LossOptions,
  PMeanVarianceOptions,
  PSampleOptions,
  TrainBatchOptions,
  ValidationOptions,
} from './diffusion/options/method-options'
export type {
  ChainOptions,
  GivenNoise,
  Intermediates,
  PathOptions,
  PSampleLoopOptions,
  SamplingOptions,
  WatchOptions,
} from './diffusion/options/sampling-options'
export type { ClassLabels } from './diffusion/process/condition'
export type { DenoiserFunction } from './diffusion/process/denoiser'
export type { LossScaleState } from './diffusion/process/loss-scale'
export type { LossDict, LossResult } from './diffusion/process/losses'
export type {
  ComputeOptions,
  DiffusionModelOptions,
  ModelSettings,
  ProcessOptions,
  ScheduleOptions,
} from './diffusion/process/model-options'
export type { Parameterization } from './diffusion/process/prediction'
export type {
  BetaSchedule,
  DdimDiscretization,
  Schedule,
  TimestepSpacing,
} from './diffusion/process/schedule'
export type { Threshold, TimestepSampler, VarianceType } from './diffusion/process/settings'
export type { Integers, Timesteps } from './diffusion/process/timesteps'
export type { BitsPerDim } from './diffusion/sampling/bits-per-dim'
export type { SchedulerConfig } from './diffusion/sampling/diffusers/scheduler-config'
export type { ConditionFunction } from './diffusion/sampling/guidance/classifier-guidance'
export type { GuidanceOptions, GuidingModel } from './diffusion/sampling/guidance/options'
export type { LoopResult, StepEvent } from './diffusion/sampling/loop'
export type { SamplerName } from './diffusion/sampling/sampler-names'
export type { Accumulation } from './diffusion/training/gradient-tree'
export type { LrSchedulerConfig } from './diffusion/training/lr-scheduler'
export type { Optimizer, OptimizerOptions } from './diffusion/training/optimizer'
export type { TrainingState, TrainResult } from './diffusion/training/training-step'
export { DiffusionError, type DiffusionErrorCode, type DiffusionErrorDetails } from './errors'
export {
  type EvaluateSamplesOptions,
  evaluateSamples,
  type FrechetDistanceOptions,
  frechetDistance,
  type SampleMetric,
  type SampleProgress,
  type SampleQuality,
} from './evaluate/evaluate-samples'
export type { FeatureExtractor, Features } from './evaluate/feature-extractor'
export type { FeatureRows, FeatureSet } from './evaluate/feature-rows'
export { type FeaturesLooks, openFeatures } from './evaluate/features-file'
export { type ImageSet, type ImagesOfOptions, imagesOf, type SamplesOfOptions, samplesOf } from './evaluate/images'
export { InceptionV3, type InceptionV3Options } from './evaluate/inception-v3'
export type { Spread } from './evaluate/kid'
export type { Moments } from './evaluate/moments'
export type { PrecisionRecall } from './evaluate/precision-recall'
export { type ReferenceOptions, referenceStatistics } from './evaluate/reference'
export { type ImageStatistics, type ImageStatisticsOptions, imageStatistics } from './evaluate/statistics'
export { readStatistics, writeStatistics } from './evaluate/statistics-file'
export type { OnnxOptions } from './export/onnx'
export type { MemoryLimit } from './memory-limit'
export type { DeviceInfo, Precision, WeightFormat } from './native'
export type { DiffusersAutoencoderConfig } from './nn/autoencoder/diffusers'
export type { AttentionType, AutoencoderConfig, AutoencoderDetails } from './nn/autoencoder/options'
export type { LoraOptions, TrainedOptions } from './nn/lora/trained'
export type { LucidrainsUNetOptions, ResolvedLucidrainsOptions } from './nn/lucidrains/options'
export { LucidrainsUNet } from './nn/lucidrains/unet'
export type { Network, Preparation, Prepared } from './nn/network'
export type { ResamplingMethod } from './nn/resampling'
export type { RescalerOptions } from './nn/rescaler'
export type { TextActivation } from './nn/text/block'
export type { CLIPTextOptions } from './nn/text/clip'
export type { OpenCLIPTextOptions } from './nn/text/open-clip'
export type { TransformerSizes } from './nn/text/x-transformer'
export type { Layout } from './nn/unet/blocks'
export { EncoderUNet, type EncoderUNetOptions } from './nn/unet/encoder-unet'
export type { ResolvedEncoderUNetOptions } from './nn/unet/encoder-unet-options'
export type { ResolvedUNetOptions, UNetDetails } from './nn/unet/options'
export { UNet, type UNet2DConfig, type UNetOptions } from './nn/unet/unet'
export type { UNetConfig } from './nn/unet-config'
export type { StateDict } from './nn/weights'
export type { Seed } from './options'
export { type Shard, type ShardOptions, type ShardSpan, shardOf } from './shard'
export { AutoencoderKL, type AutoencoderKLForwardOptions } from './stages/autoencoder-kl'
export type { StageCkptOptions, StageCkptReport } from './stages/checkpoint'
export { ClassEmbedder, type ClassEmbedderOptions, type ClassInput } from './stages/class-embedder'
export type { QuantizeResult, UnknownIndex } from './stages/codebook'
export type {
  FirstStage,
  FirstStageOptions,
  FirstStageRunOptions,
  FirstStageSaveOptions,
  PretrainedFirstStageOptions,
  TilingOptions,
} from './stages/first-stage'
export { DiagonalGaussianDistribution, type PosteriorOptions, type PosteriorSampleOptions } from './stages/gaussian'
export { IdentityFirstStage, type IdentityFirstStageOptions } from './stages/identity'
export { LPIPS } from './stages/lpips'
export { SpatialRescaler, type SpatialRescalerOptions } from './stages/spatial-rescaler'
export type { Stage, StageLoadOptions, StageOptions, WeightsSource } from './stages/stage'
export {
  type EncodeCLIPOptions,
  FrozenCLIPEmbedder,
  type FrozenCLIPEmbedderOptions,
  type PretrainedCLIPOptions,
} from './stages/text/clip'
export { FrozenOpenCLIPEmbedder, type FrozenOpenCLIPEmbedderOptions } from './stages/text/open-clip'
export {
  type CLIPStageOptions,
  type EncodeTextOptions,
  type TextInput,
  TextStage,
  type TextStageOptions,
} from './stages/text/text-stage'
export {
  BERTEmbedder,
  type BERTEmbedderOptions,
  TransformerEmbedder,
  type TransformerEmbedderOptions,
} from './stages/text/transformer'
export { VectorQuantizer2, type VectorQuantizer2Options } from './stages/vector-quantizer'
export { type VQDecodeOptions, VQModel, VQModelInterface, type VQModelOptions } from './stages/vq-model'
export { type RandnOptions, type Shape, Tensor, type TensorDType } from './tensor'
export { parsePromptWeights, type WeightedText } from './text/prompt-weights'
export { type TokenizedText, type TokenizeOptions, Tokenizer } from './text/tokenizer'
export type {
  AutoencoderTrainOptions,
  ResolvedAutoencoderTrainOptions,
  TrainAutoencoderConfig,
} from './train/autoencoder/options'
export type { CommonMetrics, StepMetrics } from './train/metrics'
export { type ModelInfo, saveModel } from './train/model-file'
export type { Best } from './train/monitor'
export type {
  CommonTrainOptions,
  ModelConfig,
  ResolvedTrainOptions,
  TrainLucidrainsOptions,
  TrainModelOptions,
  TrainOptions,
  TrainTextEncoder,
  TrainUNetOptions,
} from './train/options'
export { type PostHocEmaOptions, postHocEma } from './train/post-hoc-ema'
export type { Scalars } from './train/scalars'
export type { AutoencoderStepMetrics } from './trainer/autoencoder/loop'
export {
  AutoencoderTrainer,
  type AutoencoderTrainHooks,
  type AutoencoderTrainStart,
} from './trainer/autoencoder/trainer'
export {
  type EvaluateOptions,
  type EvaluateShardOptions,
  type Evaluation,
  evaluate,
  evaluateShard,
  mergeEvaluations,
} from './trainer/evaluate'
export type { EvaluationPart, EvaluationSums } from './trainer/evaluation-part'
export { type HeldOutOptions, heldOutLosses } from './trainer/held-out-losses'
export type { RunResult, TrainHooks, TrainStart } from './trainer/hooks'
export { Trainer } from './trainer/trainer'
export { type Distributed, world } from './world'
