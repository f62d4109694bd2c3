"""The benchmarks by name, and how the settings pick and build them."""

import re
from functools import cache
from pathlib import Path

from configs.errors import UsageError
from configs.schema import DataConfig, EvalConfig
from eval.benchmarks.benchmark import Benchmark, Shared
from eval.benchmarks.localization.avsbench import AVSBENCH_MS3, AVSBENCH_S4
from eval.benchmarks.localization.flickr_soundnet import FLICKR_SOUNDNET
from eval.benchmarks.localization.heatmap_sources import default_device
from eval.benchmarks.localization.is3 import IS3, IS3_MASKS
from eval.benchmarks.localization.slavc import EXTENDED_FLICKR, EXTENDED_VGGSS
from eval.benchmarks.localization.vgg_ss import VGG_SS
from eval.benchmarks.prompted_ade20k.benchmark import ADE20K_SOUND, ADE20K_SPEECH
from eval.benchmarks.retrieval.benchmark import AUDIOSET_RETRIEVAL, PLACES_RETRIEVAL, RETRIEVAL, VGGSOUND_RETRIEVAL
from eval.benchmarks.retrieval.disentanglement import DISENTANGLEMENT
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.retrieval.gallery import Gallery
from eval.results import PREFIXES, BenchmarkInfo
from model.upsamplers.load import load_upsampler

KINDS = {
    "ade20k_speech": ADE20K_SPEECH,
    "ade20k_sound": ADE20K_SOUND,
    "places_retrieval": PLACES_RETRIEVAL,
    "audioset_retrieval": AUDIOSET_RETRIEVAL,
    "vggsound_retrieval": VGGSOUND_RETRIEVAL,
    "retrieval": RETRIEVAL,
    "disentanglement": DISENTANGLEMENT,
    "vggss": VGG_SS,
    "flickr_soundnet": FLICKR_SOUNDNET,
    "is3": IS3,
    "is3_masks": IS3_MASKS,
    "avsbench_s4": AVSBENCH_S4,
    "avsbench_ms3": AVSBENCH_MS3,
    "extended_vggss": EXTENDED_VGGSS,
    "extended_flickr": EXTENDED_FLICKR,
}


def build_benchmarks(config: EvalConfig) -> dict[str, Benchmark]:
    """The benchmarks that the setting `benchmarks` names, in its order, with their tables read.

    A name is that of a published benchmark, which reads the data sets of `BenchmarkKind.data`, or that of an entry of
    `data` with a `kind`: the user's own data. Benchmarks of the same shards share a gallery and its features.

    Raises:
        UsageError: an invalid entry of `data`, an unknown benchmark or none at all, missing or invalid data, or an
            unknown upsampler.
    """
    for name, data in config.data.items():
        _check_data(name, data)
    names = [*KINDS, *(name for name, data in config.data.items() if data.kind and name not in KINDS)]
    unknown = [name for name in config.benchmarks if name not in names]
    if unknown or not config.benchmarks:
        raise UsageError(f"benchmarks={unknown}: allowed are {', '.join(names)}")
    feature_cache = FeatureCache(config.feature_cache_dir) if config.feature_cache_dir else None

    @cache
    def open_gallery(root: Path) -> Gallery:
        audio = config.audio or "waveform"
        return Gallery(str(root), config.gallery_size, config.batch_size, config.seed, feature_cache, audio)

    is_bilinear = config.upsampler == "bilinear"
    shared = Shared(open_gallery, None if is_bilinear else load_upsampler(config.upsampler, device=default_device()))
    benchmarks = {}
    for name in config.benchmarks:
        kind = KINDS[name if name in KINDS else config.data[name].kind]
        sources = (name,) if name in config.data else kind.data
        roots = [_root(source, name, config) for source in sources]
        try:
            benchmarks[name] = kind.build(name, roots, config, shared)
        except UsageError as error:
            raise UsageError(f"{', '.join(f'data.{source}.root' for source in sources)}: {error}") from None
        benchmarks[name].info = kind.info if name in KINDS else kind.info._replace(name=name, terms="")
    return benchmarks


def benchmark_info(name: str) -> BenchmarkInfo:
    """What a report says about a published benchmark; about any other only its name."""
    return KINDS[name].info if name in KINDS else BenchmarkInfo(name, name)


def _check_data(name: str, data: DataConfig) -> None:
    """Check an entry of `data`: published benchmarks and data sets need no kind, own ones do."""
    kinds = [name for name, kind in KINDS.items() if len(kind.data) == 1]
    published = {*kinds, *(source for kind in KINDS.values() for source in kind.data)}
    problems = (
        (
            not re.fullmatch(r"[A-Za-z0-9_-]+", name),
            f"data: the name {name!r} is invalid: allowed are letters, digits, _ and -",
        ),
        (
            name in PREFIXES,
            f"data.{name}: the name belongs to a baseline; choose one that is not {', '.join(PREFIXES)}",
        ),
        (
            data.kind not in kinds and (data.kind or name not in published),
            f"data.{name}.kind={data.kind}: allowed are {', '.join(kinds)}",
        ),
        (
            name in KINDS and data.kind not in ("", name),
            f"data.{name}.kind={data.kind}: {name} is a published benchmark; choose another name",
        ),
    )
    for applies, message in problems:
        if applies:
            raise UsageError(message)


def _root(source: str, benchmark: str, config: EvalConfig) -> Path:
    root = config.data[source].root if source in config.data else ""
    if not root:
        raise UsageError(f"data.{source}.root= is missing: benchmark {benchmark} needs this folder")
    return Path(root)
