"""Evaluation during training: the benchmarks of `python -m eval.run`, on all ranks, every `evaluate.every_steps` steps.

The metrics equal those of `eval.run` on the checkpoint of that step: computed in float32, with the averaged weights
where the run has them. Retrieval reads the audio that the evaluation's settings name, else that of the run
(stream.audio). Their keys in the history and the tracker are `eval/task/variant/metric`. Baselines are measured each
time, apart from `untrained`, which does not change. The last evaluation leaves metrics.json and the report in the run's
folder.
"""

import copy
import dataclasses
import shlex
import sys
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from tqdm import tqdm

from configs.errors import CommandFailed, UsageError
from configs.load import find_config, load
from configs.schema import EvalConfig, TrainConfig
from eval.baselines import Baselines
from eval.benchmarks.registry import build_benchmarks
from eval.distributed import Interrupted, interruptible, rank
from eval.provenance import describe_inputs, describe_run, newest_step
from eval.render.render import render_video
from eval.report.write import REPORT_FILES, VIDEO_FILE, report_folder, write_results
from eval.results import PREFIXES, TRACKER_PREFIX, Results
from eval.run import check_settings, evaluate, measure_untrained
from eval.visualize import collect_media
from model.build import build_random_init
from model.denseav import DenseAV
from model.distributed import world_size
from model.training.ema import ModelEma
from model.training.fsdp import eval_weights
from model.training.tracking import RunLogger, read_history


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
        find_config(config.evaluate.config, "evaluate.config")
        self.run, self.folder, self.stop_reason = config, folder, stop_reason
        # The feature cache is off: the next steps change the weights.
        try:
            settings: EvalConfig = load(EvalConfig, [f"config={config.evaluate.config}"])
            audio = settings.audio or ("log_mel" if config.stream.audio == "log_mel" else "")
            self.settings: EvalConfig = dataclasses.replace(settings, audio=audio)  # eval.run with these gives the same
            self.config = dataclasses.replace(self.settings, feature_cache_dir="")
            check_settings(self.config)
            if self.config.audio == "log_mel" and not config.model.audio_encoder.startswith("mel:"):
                raise UsageError(
                    f"audio=log_mel needs an audio encoder on log-mel, model.audio_encoder=mel:NAME, "
                    f"not {config.model.audio_encoder}"
                )
        except UsageError as error:
            raise UsageError(f"evaluate.config={config.evaluate.config}: {error}") from None
        self.benchmarks = build_benchmarks(self.config)
        best = config.checkpoint.best_metric
        if best and best.partition("/")[0] not in (*self.benchmarks, *PREFIXES):
            raise UsageError(
                f"checkpoint.best_metric={best}: not evaluated by {config.evaluate.config}; "
                f"allowed is task/variant/metric of {', '.join(self.benchmarks)}"
            )
        self.baselines = Baselines(self.config, self.benchmarks)
        self._untrained_metrics: dict[str, float] | None = None
        self._last: Results | None = None

    @cached_property
    def evaluated_steps(self) -> set[int]:
        """The steps whose evaluation is in the run's history."""
        from accelerate.utils import broadcast_object_list

        history = read_history(self.folder / "history.jsonl")
        steps = {int(line["step"]) for line in history if any(key.startswith(TRACKER_PREFIX) for key in line)}
        return broadcast_object_list([steps])[0]

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
        try:
            with interruptible(self.stop_reason), eval_weights(model, ema):
                # A copy: features that benchmarks cache by object are not reused for later weights.
                eval_model = copy.copy(model).eval()
                untrained = partial(self._measure_untrained, eval_model)
                results = evaluate(self.config, self.benchmarks, eval_model, self.baselines, untrained)
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
        self.evaluated_steps.add(step)
        self._last = results if step == self.run.steps else None
        log.add(step, {TRACKER_PREFIX + key: value for key, value in results.metrics.items()})
        log.log_media(step, media)
        if rank() == 0:
            for task in self.benchmarks:
                own = {key: value for key, value in results.metrics.items() if key.startswith(f"{task}/")}
                text = ", ".join(f"{key.partition('/')[2]} {value:.3f}" for key, value in own.items())
                tqdm.write(f"after step {step}, {task}: {text}")
        return results.metrics

    def write_report(self) -> None:
        """Write metrics.json and the report, as eval.run does, if the last step was evaluated; on the first rank.

        Call it after the last checkpoint is written: its hash is stored. A folder that cannot be written is a warning.
        """
        if self._last is None or rank() > 0:
            return
        config = dataclasses.replace(self.settings, checkpoint=str(self.folder), out=str(self.folder))
        video = self.folder / VIDEO_FILE
        try:
            about = describe_run(world_size()) | {"command": shlex.join([sys.executable, *sys.argv])}
            self._last.about.update(about | describe_inputs(config, newest_step(self.folder)))
            with report_folder(self.folder):
                history = read_history(self.folder / "history.jsonl")
                write_results(self._last, self.folder, history, video if video.is_file() else None)
        except (UsageError, CommandFailed, OSError) as error:
            print(f"warning: no report: {error}", file=sys.stderr)
            return
        print(f"report: {self.folder / REPORT_FILES[0]}")

    def _videos(self, model: DenseAV) -> dict[str, Path]:
        if not self.config.video or rank() > 0:
            return {}
        try:
            done = render_video(model, self.config.video, self.folder / VIDEO_FILE)
        except (UsageError, OSError) as error:
            print(f"warning: no heatmap video: {error}", file=sys.stderr)
            return {}
        if done.note:
            print(f"warning: {done.note}", file=sys.stderr)
        return {"media/heatmap": done.path}

    def _measure_untrained(self, model: DenseAV) -> dict[str, float]:
        """Once in a run: its random weights do not change."""
        if self._untrained_metrics is None:
            untrained = build_random_init(self.run.model, model.inputs, self.config.seed).eval()
            untrained.to(next(model.parameters()).device)
            self._untrained_metrics = measure_untrained(self.benchmarks, untrained)
        return self._untrained_metrics
