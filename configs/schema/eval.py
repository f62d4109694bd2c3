"""Settings of `python -m eval.run` and of the other commands of `eval`."""

from dataclasses import dataclass
from typing import Literal

from configs.field import MAX_SEED, field


@dataclass
class RequirementConfig:
    metric: str = field("", "key in metrics.json")
    min: float = field(0.0, "minimum of the metric, or of what baseline or ratio_to makes of it")
    baseline: str = field("", "key of a second metric that is subtracted; empty: none")
    ratio_to: str = field("", "key of a second metric to divide by; empty: none")


@dataclass
class DataConfig:
    kind: str = field("", "of an own data set: the benchmark whose layout and metrics apply, as vggss or retrieval")
    root: str = field("", "folder of the data set")


@dataclass
class EvalConfig:
    checkpoint: str = field("", "run folder, step folder or from_pretrained folder")
    out: str = field("", "output folder of metrics.json, report.html, report.md and images")
    benchmarks: list[str] = field(
        list, "published benchmarks and own data sets (data.NAME.kind) to run; benchmarks=[help] lists their names"
    )
    baselines: list[
        Literal["chance", "untrained", "shuffled_prompts", "center_prior", "global_pooling", "object_prior"]
    ] = field(
        lambda: ["chance", "untrained", "shuffled_prompts", "center_prior", "global_pooling"],
        "baselines to measure in the same run; also object_prior, which needs ImageNet weights",
    )
    data: dict[str, DataConfig] = field(dict, "data sets by name; published ones have fixed names, as data.vggss.root=")
    object_prior: str = field(
        "pretrained", "ImageNet weights of object_prior: pretrained (timm's, cached or downloaded), random, or a file"
    )
    video: str = field("", "video with audio, shown with its heatmap in the report")
    audio: Literal["", "waveform", "log_mel"] = field(
        "",
        "audio that retrieval benchmarks read; log_mel: the stored KEY.mel.npy, for mel encoders; "
        "empty: waveform, and in evaluations during training stream.audio",
    )
    upsampler: str = field(
        "bilinear",
        "upsampler of heatmaps: bilinear, bicubic, anyup, or the folder of a trained one; bilinear is measured too",
    )
    gallery_size: int = field(1000, "items of a retrieval benchmark, drawn by a fixed permutation", "items", min=1)
    feature_cache_dir: str = field(
        "", "cache folder for features of retrieval items, keyed by weights, data set and settings; empty: no cache"
    )
    batch_size: int = field(32, "items encoded at once", "items", min=1)
    seed: int = field(0, "seed of the permutation, the untrained weights and the shuffling", min=0, max=MAX_SEED)
    tracker: Literal["wandb", "tensorboard", "none"] = field(
        "none",
        "experiment tracker that gets metrics and pictures; wandb runs offline without a key. "
        "Evaluations during training use that of the run",
    )
    requirements: list[RequirementConfig] = field(list, "minimum metrics; the command exits with 1 if one is missed")


@dataclass
class RenderConfig:
    checkpoint: str = field("", "model, as for denseav.load: toy, a run folder, ...")
    video: str = field("", "video or audio file")
    image: str = field("", "image file, in place of video, with sound")
    sound: str = field("", "audio or video file whose sound goes with image")
    out: str = field("", "mp4 file to write; with image and sound also a png file, for the whole sound")
    view: Literal["heatmap", "heads", "head", "features", "side_by_side", "audio"] = field(
        "heatmap",
        "heatmap: all heads together; heads: each head in its color; head: the head of head=; features: joint PCA of "
        "image and audio features; side_by_side: frame and heatmap; audio: the strip of audio features",
    )
    head: int = field(0, "number of the head of view=head", min=0)
    upsampler: str = field(
        "bilinear", "upsampler of the maps: bilinear, bicubic, anyup, or the folder of a trained one"
    )
    words: str = field(
        "", 'spoken words, drawn as captions: a JSON list of {"word", "start_s", "end_s"}, or the KEY.json of a clip'
    )
    max_fps: float = field(30.0, "frames are left out where there are more per second", "frames/s", min=1, max=240)


@dataclass
class CompareConfig:
    html: str = field("", "page to write as well; empty: none")


@dataclass
class NoSettings:
    """Of `eval.parity`: each case contains its own."""
