"""From settings to benchmarks: the one place where a name picks a benchmark. All are made, and their data looked for, before any is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from configs.errors import UsageError
from configs.schema import EvalConfig
from eval.benchmarks.localization.avsbench import read_avsbench
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.dataset import LocalizationSet
from eval.benchmarks.localization.flickr_soundnet import read_flickr_soundnet
from eval.benchmarks.localization.is3 import read_is3
from eval.benchmarks.localization.metrics import CIoUMetrics, DetectionMetrics, MaskMetrics, Measure
from eval.benchmarks.localization.slavc import read_extended
from eval.benchmarks.localization.vgg_ss import read_vgg_ss
from eval.benchmarks.prompted_ade20k.benchmark import PromptedADE20K
from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.disentanglement import HeadDisentanglement
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.retrieval.gallery import Gallery

Benchmark = PromptedADE20K | Retrieval | HeadDisentanglement | Localization


def build_benchmarks(config: EvalConfig) -> dict[str, Benchmark]:
    """The benchmarks that `benchmarks` names, in its order; galleries are shared.

    Raises:
        UsageError: an unknown name, none at all, or data that is not there.
    """

    kept = FeatureCache(config.feature_cache_dir) if config.feature_cache_dir else None

    @cache
    def gallery(key: str) -> Gallery:
        folder = _folder(config, key)
        try:
            return Gallery(folder, config.gallery_size, config.batch_size, config.seed, kept)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from None

    def prompted(prompt: str) -> PromptedADE20K:
        return PromptedADE20K(_folder(config, "prompted_ade20k"), prompt, config.batch_size, config.seed)

    def localization(name: str, key: str, read: Callable[[Path], LocalizationSet], measure: Measure) -> Localization:
        return Localization(name, read(Path(_folder(config, key))), measure, config.batch_size, config.seed)

    makers: dict[str, Callable[[], Benchmark]] = {
        "ade20k_speech": lambda: prompted("speech"),
        "ade20k_sound": lambda: prompted("sound"),
        "places_retrieval": lambda: Retrieval("places_retrieval", gallery("places_audio")),
        "audioset_retrieval": lambda: Retrieval("audioset_retrieval", gallery("audioset")),
        "vggsound_retrieval": lambda: Retrieval("vggsound_retrieval", gallery("vggsound")),
        "disentanglement": lambda: HeadDisentanglement(gallery("places_audio"), gallery("audioset")),
        "vggss": lambda: localization("vggss", "vggss", read_vgg_ss, CIoUMetrics()),
        "flickr_soundnet": lambda: localization(
            "flickr_soundnet", "flickr_soundnet", read_flickr_soundnet, CIoUMetrics()
        ),
        "is3": lambda: localization(
            "is3", "is3", lambda root: read_is3(root, masks=False), CIoUMetrics(interactive=True)
        ),
        "is3_masks": lambda: localization(
            "is3_masks", "is3", lambda root: read_is3(root, masks=True), CIoUMetrics(interactive=True)
        ),
        "avsbench_s4": lambda: localization(
            "avsbench_s4", "avsbench", lambda root: read_avsbench(root, "s4"), MaskMetrics()
        ),
        "avsbench_ms3": lambda: localization(
            "avsbench_ms3", "avsbench", lambda root: read_avsbench(root, "ms3"), MaskMetrics()
        ),
        "extended_vggss": lambda: localization(
            "extended_vggss", "extended_vggss", lambda root: read_extended(root, "vggss"), DetectionMetrics()
        ),
        "extended_flickr": lambda: localization(
            "extended_flickr", "extended_flickr", lambda root: read_extended(root, "flickr"), DetectionMetrics()
        ),
    }
    unknown = [name for name in config.benchmarks if name not in makers]
    if unknown or not config.benchmarks:
        raise UsageError(f"benchmarks={unknown or '[]'}: allowed are {', '.join(makers)}")
    return {name: makers[name]() for name in config.benchmarks}


def _folder(config: EvalConfig, key: str) -> str:
    folder = getattr(config, key)
    if not folder:
        raise UsageError(f"{key}= is missing: a benchmark of {', '.join(config.benchmarks)} needs this folder")
    return folder
