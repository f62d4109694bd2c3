"""Evaluation during training: the benchmarks of `python -m eval.run`, on all ranks, every `evaluate.every_steps` steps.

The metrics equal those of `eval.run` on the checkpoint of that step: computed in float32, with the averaged weights
where the run has them. Their keys in the history and the tracker are `eval/task/variant/metric`. Baselines are measured
once in a run, in its first evaluation.
"""

import copy
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import EvalConfig, TrainConfig
from eval.baselines import Baselines
from eval.benchmarks.registry import build_benchmarks
from eval.distributed import Interrupted, interruptible, rank
from eval.render.render import render_video
from eval.results import PREFIXES, is_model_metric
from eval.run import check_settings, evaluate
from eval.visualize import collect_media
from model.build import build_random_init
from model.denseav import DenseAV
from model.training.ema import ModelEma
from model.training.fsdp import eval_weights
from model.training.tracking import RunLogger, read_history

PREFIX = "eval/"


class PeriodicEvaluation:
    """The evaluations of a training run. Every rank creates one.

    Args:
        config: of the run; `evaluate.config` is the path of the evaluation's settings.
        folder: of the run; gets the heatmap video.
        stop_reason: true when this rank should stop (Preemption.local_reason); called before each batch.

    Raises:
        UsageError: settings that eval.run refuses, or missing data.
    """

    def __init__(self, config: TrainConfig, folder: Path, stop_reason: Callable[[], object]) -> None:
        from accelerate.utils import broadcast_object_list

        self.run, self.folder, self.stop_reason = config, folder, stop_reason
        # The feature cache is off: the next steps change the weights.
        try:
            settings: EvalConfig = load(EvalConfig, [f"config={config.evaluate.config}"])
            self.config = dataclasses.replace(settings, feature_cache_dir="")
            check_settings(self.config)
        except UsageError as error:
            raise UsageError(f"evaluate.config={config.evaluate.config}: {error}") from None
        self.benchmarks = build_benchmarks(self.config)
        best = config.checkpoint.best_metric
        if best and best.partition("/")[0] not in (*self.benchmarks, *PREFIXES):
            raise UsageError(
                f"checkpoint.best_metric={best}: not evaluated by {config.evaluate.config}; "
                f"allowed is task/variant/metric of {', '.join(self.benchmarks)}"
            )
        steps, baselines = set(), False
        for line in read_history(folder / "history.jsonl"):
            keys = [key.removeprefix(PREFIX) for key in line if key.startswith(PREFIX)]
            steps |= {line["step"]} if keys else set()
            baselines |= not all(map(is_model_metric, keys))
        self.has_baselines, self.evaluated_steps = broadcast_object_list([baselines, steps])
        self.baselines = Baselines(self.config, self.benchmarks)

    def maybe_evaluate(self, step: int, model: DenseAV, ema: ModelEma | None, log: RunLogger) -> dict[str, float]:
        """Evaluate if this step is due and not evaluated yet, log and print the metrics. Every rank must call it.

        An evaluation that fails (a clip that cannot be read, scores that are not finite) is a warning; training
        continues.

        Args:
            step: number of finished steps.
            model: in training mode; unchanged afterwards.
            ema: moving average of the weights, which is evaluated if there is one.

        Returns:
            The metrics by `task/variant/metric`; {} if the step is not due, a rank should stop, or the evaluation
            failed.
        """
        due = step > 0 and (step % self.run.evaluate.every_steps == 0 or step == self.run.steps)
        if not due or step in self.evaluated_steps:
            return {}
        baselines = None if self.has_baselines else self.baselines
        try:
            with interruptible(self.stop_reason), eval_weights(model, ema):
                # A copy: features that benchmarks cache by object are not reused for later weights.
                eval_model = copy.copy(model).eval()
                untrained = (
                    partial(self._untrained, eval_model) if baselines and "untrained" in self.config.baselines else None
                )
                results = evaluate(self.config, self.benchmarks, eval_model, baselines, untrained)
                media = collect_media(eval_model, self.benchmarks, results.examples)
                media = media._replace(videos=self._videos(eval_model))
        except Interrupted:
            return {}
        except (UsageError, CommandFailed) as error:
            if rank() == 0 or isinstance(error, UsageError):
                tqdm.write(
                    f"warning: evaluation after step {step} failed: {error}; training continues", file=sys.stderr
                )
            return {}
        finally:
            model.train()
        self.has_baselines = True
        self.evaluated_steps.add(step)
        log.add(step, {PREFIX + key: value for key, value in results.metrics.items()})
        log.log_media(step, media)
        if rank() == 0:
            for task in self.benchmarks:
                own = {key: value for key, value in results.metrics.items() if key.startswith(f"{task}/")}
                text = ", ".join(f"{key.partition('/')[2]} {value:.3f}" for key, value in own.items())
                tqdm.write(f"after step {step}, {task}: {text}")
        return results.metrics

    def _videos(self, model: DenseAV) -> dict[str, Path]:
        if not self.config.video or rank() > 0:
            return {}
        try:
            return {"media/heatmap": render_video(model, self.config.video, self.folder / "heatmap.mp4").path}
        except (UsageError, OSError) as error:
            print(f"warning: no heatmap video: {error}", file=sys.stderr)
            return {}

    def _untrained(self, model: DenseAV) -> DenseAV:
        untrained = build_random_init(self.run.model, model.inputs, self.config.seed).eval()
        return untrained.to(next(model.parameters()).device)
