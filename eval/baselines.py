"""What every number stands beside, measured in the same run: a number without its baseline says nothing. Keys: FLOOR/task/variant/metric.

chance            what luck reaches
untrained         the same architecture with random weights, also in encoders that began with pre-trained ones
shuffled_prompts  the model itself, every picture with another one's prompt: a map that ignores the prompt loses nothing by that
center_prior      maps: a bump in the middle of every picture
global_pooling    retrieval: the model itself, its features averaged over cells and steps before they are compared. For maps it is no baseline: the mean
                  over steps of one head's products is the product with the mean
object_prior      localization: where things are, whatever sounds (ImageNet features); with it `ogl`, no baseline but what this field
                  reports: 0.4 of the model's own map, 0.6 of that prior
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from configs.errors import UsageError
from configs.schema import EvalConfig

if TYPE_CHECKING:
    from eval.benchmarks.benchmark import Benchmark
    from eval.results import BenchmarkResult
    from model.denseav import DenseAV

FLOORS = ("chance", "untrained", "shuffled_prompts", "center_prior", "global_pooling", "object_prior")
# What keys of metrics.json may begin with, and how tables call it.
PREFIXES = {
    "shuffled_prompts": "prompts shuffled",
    "untrained": "untrained",
    "global_pooling": "global features",
    "center_prior": "centre prior",
    "object_prior": "object prior",
    "ogl": "with object prior",
    "chance": "chance",
}


def check_baselines(names: list[str]) -> None:
    """Raises UsageError: an unknown baseline."""
    for baseline in names:
        if baseline not in FLOORS:
            raise UsageError(f"baselines: {baseline!r}, allowed are {', '.join(FLOORS)}")


def is_model_metric(key: str) -> bool:
    """Whether a key of metrics.json is the model's own, not a baseline's."""
    return key.partition("/")[0] not in PREFIXES


class Baselines:
    """The baselines that need no other model. (`untrained` does: eval.run measures it like the model.)

    Raises:
        UsageError: the object prior is asked for and its weights are not there.
    """

    def __init__(self, config: EvalConfig, benchmarks: Mapping[str, Benchmark]) -> None:
        import torch

        from eval.benchmarks.localization.heatmap_sources import ObjectPrior

        self.names, self.prior = frozenset(config.baselines), None
        if any("object_prior" in self.names & benchmark.baselines for benchmark in benchmarks.values()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)  # random weights, where they are asked for, are those of every rank
                self.prior = ObjectPrior(config.object_prior)

    def beside(self, name: str, benchmark: Benchmark, model: DenseAV, own: BenchmarkResult) -> dict[str, float]:
        """Each baseline that this benchmark has.

        Args:
            model: the one that is measured.
            own: what was measured of it, with chance.
        """
        found: dict[str, Mapping[str, float]] = {"chance": own.chance} if "chance" in self.names else {}
        requested = self.names | {"ogl"} if self.prior else self.names
        for baseline in (name for name in PREFIXES if name in requested & benchmark.baselines):
            found[baseline] = benchmark.evaluate_baseline(baseline, model, self.prior)
        return {
            f"{baseline}/{name}/{key}": value for baseline, metrics in found.items() for key, value in metrics.items()
        }
