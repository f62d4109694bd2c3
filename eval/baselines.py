"""Baselines, measured in the same run as the model. Their keys in metrics.json: BASELINE/task/variant/metric.

bilinear          heatmaps: the model without its upsampler; measured whenever upsampler= names another one
chance            chance level
untrained         the same architecture with random weights, also in encoders that started from pre-trained ones
shuffled_prompts  the model, each image with the prompt of another one; a map that ignores the prompt scores the same
center_prior      heatmaps: a bump in the middle of every image
global_pooling    retrieval: the model, with features averaged over cells and audio frames before they are compared (for
                  heatmaps this would change nothing: the mean over frames of a head's products is the product with
                  the mean)
object_prior      localization: where objects are, whatever the audio (ImageNet features). With it comes `ogl`,
                  object-guided localization (EZ-VSL), which this field reports: 0.4 of the model's own map and 0.6 of
                  that prior
"""

from collections.abc import Mapping

import torch

from configs.schema import EvalConfig
from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.localization.heatmap_sources import ObjectPrior
from eval.results import PREFIXES, BenchmarkResult
from model.denseav import DenseAV


class Baselines:
    """The baselines that need no second model (`untrained` does: eval.run evaluates it like the model).

    Raises:
        UsageError: the weights of the object prior cannot be loaded.
    """

    def __init__(self, config: EvalConfig, benchmarks: Mapping[str, Benchmark]) -> None:
        self.names, self.prior = frozenset(config.baselines), None
        if any("object_prior" in self.names & benchmark.baselines for benchmark in benchmarks.values()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)  # object_prior=random: the same weights on every rank
                self.prior = ObjectPrior(config.object_prior)

    def measure(self, name: str, benchmark: Benchmark, model: DenseAV, result: BenchmarkResult) -> dict[str, float]:
        """Measure every baseline that applies to a benchmark.

        Args:
            name: of the benchmark.
            model: the model under evaluation.
            result: its result on this benchmark, with the chance level.

        Returns:
            Values by `BASELINE/name/variant/metric`.
        """
        metrics: dict[str, Mapping[str, float]] = {"chance": result.chance} if "chance" in self.names else {}
        requested = self.names | {"bilinear"} | ({"ogl"} if self.prior else set())
        for baseline in (prefix for prefix in PREFIXES if prefix in requested & benchmark.baselines):
            metrics[baseline] = benchmark.evaluate_baseline(baseline, model, self.prior)
        return {f"{baseline}/{name}/{key}": value for baseline, of in metrics.items() for key, value in of.items()}
