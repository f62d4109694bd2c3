"""From settings to benchmarks: the one place where a name picks a benchmark. All are made, and their data looked for, before any is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from configs.command import UsageError
from configs.schema import EvalConfig
from eval.benchmarks.disentanglement import HeadUse
from eval.benchmarks.gallery import Gallery
from eval.benchmarks.prompted_ade20k import PromptedADE20K
from eval.benchmarks.retrieval import Retrieval

Benchmark = PromptedADE20K | Retrieval | HeadUse


def assemble(config: EvalConfig) -> dict[str, Benchmark]:
    """The benchmarks that `benchmarks` names, in its order; galleries are shared.

    Raises:
        UsageError: an unknown name, none at all, or data that is not there.
    """

    @cache
    def gallery(key: str) -> Gallery:
        return Gallery(_folder(config, key), config.gallery_size, config.batch_size, config.seed)

    def prompted(prompt: str) -> PromptedADE20K:
        return PromptedADE20K(_folder(config, "prompted_ade20k"), prompt, config.batch_size, config.seed)

    makers: dict[str, Callable[[], Benchmark]] = {
        "ade20k_speech": lambda: prompted("speech"),
        "ade20k_sound": lambda: prompted("sound"),
        "places_retrieval": lambda: Retrieval("places_retrieval", gallery("places_audio")),
        "audioset_retrieval": lambda: Retrieval("audioset_retrieval", gallery("audioset")),
        "disentanglement": lambda: HeadUse(gallery("places_audio"), gallery("audioset")),
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
