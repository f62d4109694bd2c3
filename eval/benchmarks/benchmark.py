"""The interface of all benchmarks: `Benchmark` is what they implement, `BenchmarkKind` what the registry holds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from configs.schema import EvalConfig
from eval.benchmarks.localization.heatmap_sources import HeatmapSource
from eval.benchmarks.retrieval.gallery import Gallery
from eval.results import BenchmarkInfo, BenchmarkResult
from model.denseav import DenseAV
from model.upsamplers import Upsampler


class Benchmark(ABC):
    """A data set with its metrics and baselines.

    Attributes:
        name: the first part of its metric keys.
        info: for reports.
        baselines: names of the baselines that apply (eval.baselines); `chance` is part of every result, and `untrained`
            applies to every benchmark.
    """

    baselines: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.name, self.info = name, BenchmarkInfo(name, name)

    @abstractmethod
    def evaluate(self, model: DenseAV) -> BenchmarkResult:
        """Measure a model. On several ranks every rank calls it and gets the same result.

        Raises:
            CommandFailed: the model gives values that are not finite.
            UsageError: a file that cannot be read.
        """

    def evaluate_baseline(
        self, baseline: str, model: DenseAV, object_prior: HeatmapSource | None = None
    ) -> dict[str, float]:
        """Measure one of `baselines`.

        Args:
            object_prior: for `object_prior` and `ogl`.

        Returns:
            Values by the keys of the metrics of `evaluate`; empty where the model is its own baseline.
        """
        raise NotImplementedError(f"{self.name}: baseline {baseline}")


class Shared(NamedTuple):
    """What the benchmarks of an evaluation share.

    Attributes:
        open_gallery: opens a folder of shards for retrieval; benchmarks of the same folder share its features.
        upsampler: of heatmaps; None: bilinear, as published.
    """

    open_gallery: Callable[[Path], Gallery]
    upsampler: Upsampler | None


class BenchmarkKind(NamedTuple):
    """A registered benchmark.

    Attributes:
        info: of the published benchmark.
        data: names of the data sets (`data.NAME.root` in the settings) that it reads.
        build: makes it, and reads its tables. Arguments: its name; the folders of its data, one for each entry of
            `data`; the settings; what all benchmarks share.
    """

    info: BenchmarkInfo
    data: tuple[str, ...]
    build: Callable[[str, Sequence[Path], EvalConfig, Shared], Benchmark]
