"""Every setting of every command: name, type, default, unit, meaning. YAML files in this folder hold differences only."""

from __future__ import annotations

from dataclasses import dataclass

from configs.field import setting
from configs.schema.optim import CheckpointConfig, EvaluateConfig, OptimConfig

# What torch's generators take.
MAX_SEED = 2**63 - 1

# ---------------------------------------------------------------------------------------------- building shards


@dataclass
class SourceConfig:
    kind: str = setting("folder", "layout of the raw data: audioset, places_audio, vggsound, folder")
    root: str = setting("", "folder that holds the raw data set")
    split: str = setting("train", "which split to build; shards are named after it")
    segments: str = setting("", "table of clips below root; empty: the published name for this layout and split")
    media: str = setting(
        "",
        "template of a media path below root, with {ytid} {start_s} {end_s} {start_ms} {end_ms} {id}; empty: the layout's own",
    )
    media_is_cut: bool = setting(False, "the media files are already cut to the segment, so a clip starts at 0")


@dataclass
class DecodeConfig:
    frames_per_clip: int = setting(
        10, "frames kept of each video clip, evenly spaced by presentation time", "frames", min=1, max=1000
    )
    mode: str = setting(
        "exact",
        "which frames: exact (on screen at the moment), fast (within 0.1 s of that), keyframes (the nearest key pictures)",
    )
    decoder: str = setting(
        "pyav", "who decodes pictures: pyav (measured faster in every mode), decord (exact and keyframes)"
    )
    short_side_px: int = setting(
        256, "short side of a stored frame; larger frames are reduced, smaller ones kept", "px", min=1, max=8192
    )
    jpeg_quality: int = setting(90, "JPEG quality of stored frames, 1 to 100", min=1, max=100)
    sample_rate_hz: int = setting(16000, "sample rate of the stored mono waveform", "Hz", min=1000, max=192000)
    audio_format: str = setting("flac", "flac (lossless, small) or wav (PCM16, larger, needs no decoding)")
    log_mel: bool = setting(
        False,
        "store KEY.mel.npy too: log-mel of 128 bins, 100 frames a second, float16; for evaluation, training computes its own",
    )
    min_duration_s: float = setting(0.5, "shorter clips are rejected", "s", min=0.1, max=3600)
    max_duration_s: float = setting(30.0, "longer clips are cut to this from their start", "s", min=0.1, max=3600)
    keep_static: bool = setting(False, "keep videos in which nothing moves; otherwise they are rejected")
    cpu_limit_s: float = setting(
        120.0, "processor time one clip may take before it is rejected", "s", min=0.01, max=86400
    )


@dataclass
class BuildConfig:
    source: SourceConfig = setting(SourceConfig, "the raw data")
    decode: DecodeConfig = setting(DecodeConfig, "from media to frames and waveform")
    out: str = setting("", "folder the shards are written to, or an address such as s3://bucket/train")
    clips_per_shard: int = setting(1000, "rows dealt to each shard", "clips", min=1)
    seed: int = setting(0, "seed of the row order", min=0, max=MAX_SEED)
    exclude: list[str] = setting(
        list,
        "files of ids to leave out, one a line: clips, or videos with all their clips; evaluation sets, for example",
    )
    labels: list[str] = setting(list, "keep clips that have one of these labels; empty: all")
    executor: str = setting(
        "local",
        "where shards are built: local (processes of this machine), ray (a cluster), slice (one part of a job array)",
    )
    processes: int = setting(
        0, "decoding processes on this machine, or at once over a Ray cluster; 0: one for each core", min=0
    )
    slice: str = setting(
        "", "for executor=slice: I/N, part I of N, counted from 0 or from 1; or finish, once all parts are done"
    )
    retry_rejected: bool = setting(False, "decode rejected clips again whose media have changed")
    dry_run: bool = setting(False, "only say how many clips, bytes and core hours it would be")


@dataclass
class VerifyConfig:
    threads: int = setting(0, "shards read at once; 0: one for each core, 16 for a remote folder", min=0, max=256)


@dataclass
class InspectConfig:
    key: str = setting("", "id of one clip, of which everything is shown; empty: a sample")
    html: str = setting("", "a page to write, with pictures and sounds; it ends in .html")
    clips: int = setting(12, "clips of the sample, spread evenly", "clips", min=1, max=1000)


@dataclass
class DoctorConfig:
    """Doctor has no settings: it looks at the machine it runs on."""


# ---------------------------------------------------------------------------------------------- streaming


@dataclass
class IndexConfig:
    max_member_mb: float = setting(64.0, "larger members are refused", "MB", min=0.001, max=67)


@dataclass
class StreamSourceConfig:
    name: str = setting("", "short name of the source, shown in logs")
    shards: str = setting(
        "", "folder that holds the shards and their manifest.json; any address of fsspec, such as s3://bucket/train"
    )
    weight: float = setting(1.0, "share of the positions this source gets, relative to the others")
    exclude: list[str] = setting(list, "files of ids to leave out, one a line: clips, or videos with all their clips")
    labels: list[str] = setting(list, "only clips that have one of these labels; empty: all")
    image_key: str = setting(
        "",
        "extension of the pictures in shards of others, such as rgb.png, or jpg for KEY.jpg and KEY.0.jpg ...; empty: every .jpg and .png, in order",
    )
    audio_key: str = setting("", "extension of the sound in shards of others; empty: the first of flac, wav, opus")


@dataclass
class AugmentConfig:
    crop_scale_min: float = setting(
        0.08, "smallest area of a random resized crop, as a share of the image; 1.0: centre crop only", min=0, max=1
    )
    flip_probability: float = setting(0.5, "probability of a horizontal flip", min=0, max=1)
    color_jitter: float = setting(
        0.2, "strength of brightness, contrast, saturation and hue jitter; 0: none", min=0, max=0.5
    )
    grayscale_probability: float = setting(0.1, "probability of a grey image", min=0, max=1)
    quad_mixup_probability: float = setting(
        0.1, "probability of a 2x2 grid of the image and three others", min=0, max=1
    )
    audio_splice_min_s: float = setting(1.0, "shortest stretch of another clip spliced into the waveform", "s")
    audio_splice_max_s: float = setting(4.0, "longest such stretch; 0: no splicing", "s", min=0)
    audio_splice_fade_min_s: float = setting(
        0.5,
        "shortest cross-fade of a splice; it is a quarter of the splice where that is longer, half at most",
        "s",
        min=0,
    )
    time_mask_probability: float = setting(
        0.5, "probability of keeping only one random window of the waveform", min=0, max=1
    )
    time_mask_min_s: float = setting(0.5, "shortest such window", "s", min=0)


@dataclass
class StreamConfig:
    sources: list[StreamSourceConfig] = setting([], "the data sets mixed into one stream")
    image_size_px: int = setting(224, "side of the square training image", "px", min=1, max=4096)
    clip_duration_s: float = setting(10.2625, "length every waveform is cut or padded to", "s", min=0.05, max=600)
    sample_rate_hz: int = setting(16000, "sample rate the shards must have", "Hz", min=1000, max=192000)
    lanes: int = setting(64, "lanes the shards are dealt to; fewer when there are few shards", min=1)
    shuffle_window_clips: int = setting(2000, "clips of a lane shuffled together", "clips", min=1)
    num_workers: int = setting(2, "loader processes of each rank; 0: load in the training process", min=0)
    prefetch_factor: int = setting(4, "batches each worker keeps ready", "batches", min=1)
    cache_dir: str = setting(
        "~/.cache/denseav", "folder for copies of remote shards, shared by all processes of a machine"
    )
    cache_gb: float = setting(
        200.0,
        "most that may lie there; a machine needs about lanes x (shuffle_window_clips / clips in a shard + 2) shards",
        "GB",
        min=0,
    )
    max_error_rate: float = setting(
        0.01, "the run stops when more than this share of clips cannot be read", min=0, max=1
    )
    augment: AugmentConfig = setting(AugmentConfig, "random changes of image and waveform in training")


# ---------------------------------------------------------------------------------------------- model


@dataclass
class ModelConfig:
    image_encoder: str = setting(
        "tiny", "image encoder: tiny, or a vision transformer of timm, such as vit_small_patch8_224.dino"
    )
    audio_encoder: str = setting(
        "tiny",
        "tiny; hubert_base, hubert_large, hubert_large_ls960, wav2vec2_base, wav2vec2_large, wavlm_base or wavlm_large on the waveform; "
        "mel: before a vision transformer of timm, on log-mel, such as mel:vit_base_patch16_224.mae",
    )
    image_weights: str = setting(
        "pretrained",
        "of a timm image encoder: pretrained (timm's own, from its cache or the network), random, or a file",
    )
    audio_weights: str = setting(
        "pretrained",
        "of a full-size audio encoder: pretrained (torchaudio's or timm's own, as above), random, or a file",
    )
    lora_rank: int = setting(
        0,
        "rank of adapters on qkv of every block of the image transformer, whose own weights are frozen then; 0: all learn",
        min=0,
    )
    lora_alpha: float = setting(32.0, "scale of the adapters is alpha / rank", min=0)
    lora_dropout: float = setting(0.1, "dropout before the adapters", min=0, max=1)
    norm_eps: float = setting(
        0.0, "of the layer norms of full-size encoders, in the published models 1e-4; 0: the encoder's own", min=0
    )
    audio_conv_bias: bool = setting(
        False,
        "the convolutions of a speech encoder have a bias, as in the published models; torchaudio's weights have none",
    )
    gradient_checkpointing: bool = setting(
        False, "full-size encoders compute their blocks again in the backward pass instead of keeping them"
    )
    audio_projection: str = setting("conv_attention", "conv_attention (published) or linear")
    projection_init_gain: float = setting(
        1.0, "factor on the initial weights of linear projections: similarities start at its square", min=0
    )
    embed_dim: int = setting(384, "channels of both projected features, all heads together", min=1)
    num_heads: int = setting(1, "K, groups of channels compared separately", min=1)
    image_pool_size: int = setting(2, "average pooling of the image grid in training; 1: none", min=1)
    similarity_aggregation: str = setting(
        "misa",
        "score from similarities: misa, mima, sisa, paired; baselines that compare one vector each: mean_pool, cls_token, simpool",
    )
    head_aggregation: str = setting("max_elementwise", "heads into one: max_elementwise, sum, max")
    clamp_nonneg: bool = setting(False, "clamp similarities at 0")
    add_cls_similarity: bool = setting(False, "add the class tokens' similarity to every cell of a head")
    logit_bias: bool = setting(
        False,
        "a learned number added to all logits: loss.objective bce and siglip need it, to the others it would make no difference",
    )
    logit_bias_init: float = setting(0.0, "where it starts; SigLIP begins with -10")


@dataclass
class ConvertConfig:
    source: str = setting("", "released weights: .ckpt or .safetensors")
    out: str = setting("", "folder for config.json and model.safetensors")
    num_heads: int = setting(0, "K; 0: as the settings inside a .ckpt say", min=0)


# ---------------------------------------------------------------------------------------------- training


@dataclass
class LossConfig:
    objective: str = setting(
        "info_nce", "contrastive objective: info_nce, cross_entropy (audio to image only), margin, bce, siglip"
    )
    label_smoothing: float = setting(
        0.0, "share of the target that other pairs divide among them (info_nce, cross_entropy, bce)", min=0, max=1
    )
    margin: float = setting(1.0, "how much larger than others' an own pair's logit has to be (margin)", min=0)
    nonneg_pressure: float = setting(0.01, "weight of the pressure on negative similarities", min=0)
    silence: float = setting(0.01, "weight of the pressure on similarities of masked-out audio steps", min=0)
    negative_audio: float = setting(0.01, "weight of the pressure where another clip was spliced in", min=0)
    tv: float = setting(0.01, "weight of temporal smoothness", min=0)
    logit_scale_floor: float = setting(0.1, "weight of the floor under the logit scale", min=0)
    head_specialization: float = setting(0.05, "weight of the pressure on two heads active in one place (K > 1)", min=0)
    image_mixup: float = setting(0.1, "weight of the pressure on the other images of a quad mixup", min=0)
    disentangle: float = setting(0.0, "weight of the supervised split of heads by source (needs K even)", min=0)
    num_sampled_positions: int = setting(250, "audio and image positions drawn for nonneg_pressure and silence", min=1)


@dataclass
class TrainConfig:
    name: str = setting("run", "name of the run: its folder below out")
    out: str = setting("runs", "folder of runs, which all machines of a run share")
    seed: int = setting(0, "seed of initial weights, order, augmentation and random positions", min=0, max=MAX_SEED)
    global_batch_size: int = setting(40, "global batch size: pairs over all ranks in one forward pass", "pairs", min=2)
    gradient_accumulation_steps: int = setting(
        1, "batches whose gradients make one step; negatives are those of the same batch only", "batches", min=1
    )
    grad_cache_chunk_size: int = setting(
        0, "pairs encoded at once on each rank, the rest computed again in the backward pass; 0: all", "pairs", min=0
    )
    frozen_encoder_steps: int = setting(
        3000, "first phase: only projections, scale and class vector learn", "steps", min=0
    )
    steps: int = setting(1000001, "total number of steps, both phases", "steps", min=1)
    init_checkpoint: str = setting(
        "",
        "run, step or from_pretrained folder a fresh run takes its weights from (the averaged ones where there are); empty: none",
    )
    init_exclude: list[str] = setting(
        list, "parameters of these names, or below them, that stay as they were built; all others must be there and fit"
    )
    compile: bool = setting(
        False,
        "compile the encoders with torch.compile (needs a C++ compiler); faster on GPUs after a minute of compiling",
    )
    time_limit_min: float = setting(
        0.0,
        "save and leave after this long, to be requeued; 0: only shortly before SLURM_JOB_END_TIME",
        "min",
        min=0,
        max=1e7,
    )
    distributed_timeout_s: float = setting(
        600.0, "how long a process waits for another one before it gives up the run", "s", min=1, max=1e7
    )
    log_every_steps: int = setting(10, "steps between lines of the history", "steps", min=1)
    tracker: str = setting("wandb", "experiment tracker: wandb (offline without a key), tensorboard, none")
    nonfinite_loss_action: str = setting(
        "stop",
        "what a loss that is no number does: stop (the run) or skip (the step, and the run stops after 10 of them in a row)",
    )
    stream: StreamConfig = setting(StreamConfig, "training data")
    model: ModelConfig = setting(ModelConfig, "the model")
    loss: LossConfig = setting(LossConfig, "weights of the objective's terms")
    optim: OptimConfig = setting(OptimConfig, "the optimiser")
    evaluate: EvaluateConfig = setting(EvaluateConfig, "measuring the model while it trains")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "what is kept")


@dataclass
class ExportConfig:
    checkpoint: str = setting("", "run folder (its newest checkpoint), step folder, or checkpoints/best of a run")
    out: str = setting("", "folder for config.json and model.safetensors, which from_pretrained reads")


# ---------------------------------------------------------------------------------------------- evaluation


@dataclass
class RequirementConfig:
    metric: str = setting("", "key in metrics.json")
    min: float = setting(0.0, "smallest value that passes")
    baseline: str = setting("", "key of a second metric the first must exceed by min; empty: none")
    ratio_to: str = setting("", "key of a second metric the first must reach min times; empty: none")


@dataclass
class EvalConfig:
    checkpoint: str = setting("", "run folder, step folder or from_pretrained folder")
    out: str = setting("", "folder for metrics.json, report.html, report.md and its pictures")
    benchmarks: list[str] = setting(
        [],
        "what to run: ade20k_speech, ade20k_sound, places_retrieval, audioset_retrieval, vggsound_retrieval, disentanglement, vggss, flickr_soundnet, "
        "is3 (boxes), is3_masks, avsbench_s4, avsbench_ms3, extended_vggss, extended_flickr",
    )
    baselines: list[str] = setting(
        ["chance", "untrained", "shuffled_prompts", "center_prior", "global_pooling"],
        "what to measure beside the model, in the same run (eval/baselines.py); also object_prior, whose weights must be there",
    )
    prompted_ade20k: str = setting("", "folder in the prompted-ADE20K layout")
    places_audio: str = setting("", "folder of Places Audio validation shards")
    audioset: str = setting("", "folder of AudioSet evaluation shards")
    vggsound: str = setting("", "folder of VGGSound test shards")
    vggss: str = setting("", "folder in the VGG-SS layout: eval/benchmarks/localization/vgg_ss.py")
    flickr_soundnet: str = setting(
        "", "folder in the Flickr-SoundNet layout: eval/benchmarks/localization/flickr_soundnet.py"
    )
    is3: str = setting("", "folder in the IS3 layout: eval/benchmarks/localization/is3.py")
    avsbench: str = setting("", "folder in the AVSBench-object layout: eval/benchmarks/localization/avsbench.py")
    extended_vggss: str = setting("", "folder in the Extended VGG-SS layout: eval/benchmarks/localization/slavc.py")
    extended_flickr: str = setting(
        "", "folder in the Extended Flickr-SoundNet layout: eval/benchmarks/localization/slavc.py"
    )
    object_prior: str = setting(
        "pretrained",
        "ImageNet weights of the object prior: pretrained (timm's own, from its cache or the network), random, or a file",
    )
    video: str = setting("", "a video with sound, shown with its heatmap in the report")
    gallery_size: int = setting(1000, "items of a retrieval benchmark, drawn by a fixed permutation", "items", min=1)
    feature_cache_dir: str = setting(
        "",
        "folder in which features of retrieval items are kept and found again, by weights, data set and settings; empty: not kept",
    )
    batch_size: int = setting(32, "items encoded at once", "items", min=1)
    seed: int = setting(0, "seed of the permutation, the untrained weights and the shuffling", min=0, max=MAX_SEED)
    requirements: list[RequirementConfig] = setting([], "the command answers no (exit 1) unless each holds")


@dataclass
class RenderConfig:
    checkpoint: str = setting("", "run folder, step folder or from_pretrained folder")
    video: str = setting("", "a video with sound")
    out: str = setting("", "the mp4 to write")


@dataclass
class ReportConfig:
    """Comparing reports has no settings."""


@dataclass
class ParityConfig:
    """Parity has no settings: every case states its own."""


# ---------------------------------------------------------------------------------------------- the toy world


@dataclass
class ToyWorldConfig:
    out: str = setting("data/toy", "folder the raw media are written to")
    seed: int = setting(0, "seed of everything in the world", min=0, max=MAX_SEED)
    audioset_train: int = setting(1500, "videos of the AudioSet-like training split", "clips", min=1)
    audioset_eval: int = setting(200, "videos of the AudioSet-like evaluation split", "clips", min=1)
    places_train: int = setting(1500, "spoken captions of the Places-Audio-like training split", "clips", min=1)
    places_val: int = setting(200, "spoken captions of the Places-Audio-like validation split", "clips", min=1)
    prompts: int = setting(
        192, "items of the prompted-ADE20K-like evaluation set, dealt to the 24 classes in turn", "items", min=1
    )
    image_size_px: int = setting(128, "side of every picture, even", "px", min=32)
    clip_duration_s: float = setting(2.0, "length of videos and of sound prompts", "s", min=0.5)
    max_caption_s: float = setting(2.3, "longest spoken caption or prompt; longer ones are spoken faster", "s", min=2.0)
    fps: int = setting(10, "frames a second of the videos", "Hz", min=1)
    damaged_share: float = setting(
        0.01, "share of the training videos broken on purpose: missing, cut off or without sound", min=0, max=1
    )
    processes: int = setting(0, "processes that draw and speak; 0: one for each core", min=0)
