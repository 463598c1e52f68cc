/** The public surface of the library. */
// First of all: it makes room where address space is limited, before other modules and their threads take it.
import './native'

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
export type { OptimizerOptions } from './diffusion/adamw'
export type { BitsPerDim } from './diffusion/bits-per-dim'
export {
  Classifier,
  type ClassifierEvaluateOptions,
  type ClassifierOptions,
  type ClassifierResult,
  type ClassifierTrainOptions,
} from './diffusion/classifier'
export { type CompVisConfig, readCompVisConfig } from './diffusion/compvis-config'
export type { ClassLabels } from './diffusion/condition'
export { type Batch, DDPM } from './diffusion/ddpm'
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
} from './diffusion/ddpm-options'
export type { DenoiserFunction } from './diffusion/denoiser'
export { DiffusionModel } from './diffusion/diffusion-model'
export type { ConditionFunction } from './diffusion/guidance/classifier-guidance'
export type { GuidanceOptions, GuidingModel } from './diffusion/guidance/options'
export type { LoraSource, WithLorasOptions } from './diffusion/lora'
export type { LossScaleState } from './diffusion/loss-scale'
export type { LossDict, LossResult } from './diffusion/losses'
export type { LrSchedulerConfig } from './diffusion/lr-scheduler'
export { makeGrid } from './diffusion/make-grid'
export type {
  CalcBpdOptions,
  ConditionOptions,
  LoadStateDictOptions,
  LossOptions,
  PMeanVarianceOptions,
  PSampleOptions,
  TrainBatchOptions,
  ValidationOptions,
} from './diffusion/method-options'
export type {
  ComputeOptions,
  DiffusionModelOptions,
  ModelSettings,
  ProcessOptions,
  ScheduleOptions,
} from './diffusion/model-options'
export type { Parameterization } from './diffusion/prediction'
export type { CheckpointReport, InitFromCkptOptions } from './diffusion/pretrained'
export type { PushToHubOptions, PushToHubResult } from './diffusion/push-to-hub'
export type { LoopResult, StepEvent } from './diffusion/sampling/loop'
export type { SamplerName } from './diffusion/sampling/sampler-names'
export type { Intermediates, PathOptions, PSampleLoopOptions, SamplingOptions } from './diffusion/sampling-options'
export type {
  BetaSchedule,
  DdimDiscretization,
  Schedule,
  TimestepSpacing,
} from './diffusion/schedule'
export type { SchedulerConfig } from './diffusion/scheduler-config'
export type { Threshold, TimestepSampler, VarianceType } from './diffusion/settings'
export type { LoadReport } from './diffusion/state'
export type { Integers, Timesteps } from './diffusion/timesteps'
export type { Accumulation, TrainingState, TrainResult } from './diffusion/training-step'
export { DiffusionError, type DiffusionErrorCode, type DiffusionErrorDetails } from './errors'
export type { OnnxOptions } from './export/onnx'
export type { DeviceInfo, Precision } from './native'
export type { Layout } from './nn/blocks'
export { EncoderUNet, type EncoderUNetOptions } from './nn/encoder-unet'
export type { ResolvedEncoderUNetOptions } from './nn/encoder-unet-options'
export type { LucidrainsUNetOptions, ResolvedLucidrainsOptions } from './nn/lucidrains/options'
export { LucidrainsUNet } from './nn/lucidrains/unet'
export type { Network } from './nn/network'
export type { LoraOptions, TrainedOptions } from './nn/trained'
export { UNet, type UNet2DConfig, type UNetOptions } from './nn/unet'
export type { UNetConfig } from './nn/unet-config'
export type { ResolvedUNetOptions, UNetDetails } from './nn/unet-options'
export type { StateDict } from './nn/weights'
export type { Seed } from './options'
export { type RandnOptions, type Shape, Tensor, type TensorDType } from './tensor'
export type { StepMetrics } from './train/metrics'
export { type ModelInfo, saveModel } from './train/model-file'
export type { Best } from './train/monitor'
export type {
  ModelConfig,
  ResolvedTrainOptions,
  TrainModelOptions,
  TrainOptions,
  TrainUNetOptions,
} from './train/options'
export { type PostHocEmaOptions, postHocEma } from './train/post-hoc-ema'
export type { Scalars } from './train/scalars'
export { type EvaluateOptions, type Evaluation, evaluate } from './trainer/evaluate'
export { type HeldOutOptions, heldOutLosses } from './trainer/held-out-losses'
export type { RunResult, TrainHooks, TrainStart } from './trainer/hooks'
export { Trainer } from './trainer/trainer'
