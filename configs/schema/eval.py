"""Settings of `python -m eval.run` and of the other commands of `eval`."""

from dataclasses import dataclass

from configs.field import MAX_SEED, field


@dataclass
class RequirementConfig:
    metric: str = field("", "key in metrics.json")
    min: float = field(0.0, "minimum of the metric, or of what baseline or ratio_to makes of it")
    baseline: str = field("", "key of a second metric that is subtracted; empty: none")
    ratio_to: str = field("", "key of a second metric to divide by; empty: none")


@dataclass
class EvalConfig:
    checkpoint: str = field("", "run folder, step folder or from_pretrained folder")
    out: str = field("", "output folder of metrics.json, report.html, report.md and images")
    benchmarks: list[str] = field(
        list,
        "benchmarks to run: ade20k_speech, ade20k_sound, places_retrieval, audioset_retrieval, vggsound_retrieval, "
        "disentanglement, vggss, flickr_soundnet, is3 (boxes), is3_masks, avsbench_s4, avsbench_ms3, extended_vggss, "
        "extended_flickr",
    )
    baselines: list[str] = field(
        lambda: ["chance", "untrained", "shuffled_prompts", "center_prior", "global_pooling"],
        "baselines to measure in the same run; also object_prior, which needs ImageNet weights",
    )
    prompted_ade20k: str = field("", "folder in the prompted-ADE20K layout")
    places_audio: str = field("", "folder of Places Audio validation shards")
    audioset: str = field("", "folder of AudioSet evaluation shards")
    vggsound: str = field("", "folder of VGGSound test shards")
    vggss: str = field("", "folder in the VGG-SS layout: eval/benchmarks/localization/vgg_ss.py")
    flickr_soundnet: str = field(
        "", "folder in the Flickr-SoundNet layout: eval/benchmarks/localization/flickr_soundnet.py"
    )
    is3: str = field("", "folder in the IS3 layout: eval/benchmarks/localization/is3.py")
    avsbench: str = field("", "folder in the AVSBench-object layout: eval/benchmarks/localization/avsbench.py")
    extended_vggss: str = field("", "folder in the Extended VGG-SS layout: eval/benchmarks/localization/slavc.py")
    extended_flickr: str = field(
        "", "folder in the Extended Flickr-SoundNet layout: eval/benchmarks/localization/slavc.py"
    )
    object_prior: str = field(
        "pretrained", "ImageNet weights of object_prior: pretrained (timm's, cached or downloaded), random, or a file"
    )
    video: str = field("", "video with audio, shown with its heatmap in the report")
    gallery_size: int = field(1000, "items of a retrieval benchmark, drawn by a fixed permutation", "items", min=1)
    feature_cache_dir: str = field(
        "", "cache folder for features of retrieval items, keyed by weights, data set and settings; empty: no cache"
    )
    batch_size: int = field(32, "items encoded at once", "items", min=1)
    seed: int = field(0, "seed of the permutation, the untrained weights and the shuffling", min=0, max=MAX_SEED)
    requirements: list[RequirementConfig] = field(list, "minimum metrics; the command exits with 1 if one is missed")


@dataclass
class RenderConfig:
    checkpoint: str = field("", "run folder, step folder or from_pretrained folder")
    video: str = field("", "video with audio")
    out: str = field("", "mp4 file to write")


@dataclass
class ReportConfig:
    """`eval.report` has no settings."""


@dataclass
class ParityConfig:
    """`eval.parity` has no settings: each case contains its own."""
