"""Evaluation while a model trains: the benchmarks of `python -m eval.run`, by its code, on all ranks, every so many steps.

The numbers are those of `eval.run` on the checkpoint of that step: in float32, with the averaged weights where the run has such. Their keys in the history
and the tracker are `eval/task/variant/metric`. Floors are measured once in a run, the first time.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import EvalConfig, TrainConfig
from eval.baselines import PREFIXES, Baselines, is_model_metric
from eval.benchmarks.registry import build_benchmarks
from eval.distributed import Interrupted, interruptible, rank
from eval.render import render_heatmap_video
from eval.run import check_settings, evaluate
from eval.visualize import media_of
from model.build import build_random_init
from model.denseav import DenseAV
from model.training.fsdp import EvalWeights
from model.training.tracking import RunLogger, read_history

PREFIX = "eval/"


class PeriodicEvaluation:
    """The evaluation of a run. Every rank makes one.

    Args:
        config: of the run; `evaluate.config` names the settings of the evaluation.
        folder: of the run; the rendered video goes there.
        heard: whether this rank was told to stop (Preemption.heard); asked before each batch.

    Raises:
        UsageError: settings that eval.run would refuse, or data that is not there.
    """

    def __init__(self, config: TrainConfig, folder: Path, local_reason: Callable[[], object]) -> None:
        from accelerate.utils import broadcast_object_list

        self.run, self.folder, self.local_reason = config, folder, local_reason
        # Features of weights that the next steps change are not worth keeping.
        try:
            self.config = dataclasses.replace(load(EvalConfig, [f"config={config.evaluate.config}"]), features="")
            check_settings(self.config)
        except UsageError as error:
            raise UsageError(f"evaluate.config={config.evaluate.config}: {error}") from None
        best, self.benchmarks = config.checkpoint.best_metric, build_benchmarks(self.config)
        if best and best.partition("/")[0] not in (*self.benchmarks, *PREFIXES):
            raise UsageError(
                f"checkpoint.best_metric={best}: wanted task/variant/metric of what is evaluated, {', '.join(self.benchmarks)}"
            )
        keys = {
            line["step"]: [key for key in line if key.startswith(PREFIX)]
            for line in read_history(folder / "history.jsonl")
        }
        known = any(
            key.startswith(tuple(f"{PREFIX}{baseline}/" for baseline in PREFIXES))
            for own in keys.values()
            for key in own
        )
        self.floors_known, self.measured = broadcast_object_list([known, {step for step, own in keys.items() if own}])
        self.baselines = Baselines(self.config, self.benchmarks)

    def after(self, step: int, model: DenseAV, weights: EvalWeights, log: RunLogger) -> dict[str, float]:
        """Evaluate if it is time to and that has not been done, log what is found and print the model's own figures; every rank has to call it.

        What cannot be measured is told in one line and ends no training: a clip that the evaluation trips over, scores that are not finite.

        Args:
            step: number of finished steps.
            model: in training; it is left as it was.
            weights: those of it that are evaluated.

        Returns:
            The metrics by `task/variant/metric`; {} when it is not time, a rank was told to stop meanwhile, or there are none.
        """
        due = step > 0 and (step % self.run.evaluate.every_steps == 0 or step == self.run.steps)
        if not due or step in self.measured:
            return {}
        wants_untrained = not self.floors_known and "untrained" in self.config.baselines
        try:
            with interruptible(self.local_reason), weights.swapped_into(model), _eval_copy(model) as shown:
                fresh = partial(self._untrained, shown) if wants_untrained else None
                results = evaluate(
                    self.config, self.benchmarks, shown, None if self.floors_known else self.baselines, fresh
                )
                media = media_of(shown, self.benchmarks, results.examples)._replace(videos=self._videos(shown))
        except Interrupted:
            return {}
        except (UsageError, CommandFailed) as error:
            if rank() == 0 or isinstance(error, UsageError):
                tqdm.write(f"warning: no evaluation after step {step}: {error}; the training goes on", file=sys.stderr)
            return {}
        self.floors_known = True
        self.measured.add(step)
        log.add(step, {PREFIX + key: value for key, value in results.metrics.items()})
        log.log_media(step, media)
        if rank() == 0:
            for task in self.benchmarks:
                own = {
                    key.partition("/")[2]: value
                    for key, value in results.metrics.items()
                    if is_model_metric(key) and key.startswith(f"{task}/")
                }
                tqdm.write(
                    f"after step {step}, {task}: " + ", ".join(f"{key} {value:.3f}" for key, value in own.items())
                )
        return results.metrics

    def _videos(self, model: DenseAV) -> dict[str, Path]:
        if not self.config.video or rank() > 0:
            return {}
        try:
            return {"media/heatmap": render_heatmap_video(model, Path(self.config.video), self.folder / "heatmap.mp4")}
        except (UsageError, OSError) as error:
            print(f"warning: no heatmap video: {error}", file=sys.stderr)
            return {}

    def _untrained(self, model: DenseAV) -> DenseAV:
        """The same architecture with random weights."""
        return (
            build_random_init(self.run.model, model.inputs, self.config.seed).eval().to(next(model.parameters()).device)
        )


@contextmanager
def _eval_copy(model: DenseAV) -> Iterator[DenseAV]:
    """The model in evaluation mode, as an object of its own: what benchmarks keep of it goes with the block, and does not serve for other weights."""
    try:
        yield copy.copy(model).eval()
    finally:
        model.train()
