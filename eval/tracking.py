"""Log a finished evaluation to an experiment tracker: settings of the model, metrics, and the pictures of the report.

TensorBoard: OUT/tensorboard/evaluation, a row of its HParams tab; point `--logdir` to the folder of all runs to compare
them. Its metrics are those of the model, without the baselines. W&B: a run in the project of the trainings, with all
metrics in its summary. Keys are those of an evaluation during training, `eval/task/variant/metric`.

Everything is read from the files of the evaluation, so stored results can be logged later.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import EvalConfig
from eval.report.write import IMAGES, VIDEO_FILE
from eval.results import METRICS_FILE, TRACKER_PREFIX, Results, is_model_metric
from model.training.tracking import TRACKERS, one_line, start_tracker, tear_down_wandb


def log_results(config: EvalConfig, results: Results, checkpoint: Path) -> None:
    """Log an evaluation whose files are in `config.out`. A tracker that fails is one warning.

    Args:
        config: of the evaluation; with `tracker=none` nothing is logged.
        results: as written to metrics.json.
        checkpoint: folder with the evaluated weights.
    """
    if config.tracker == "none":
        return
    log = {"tensorboard": _log_to_tensorboard, "wandb": _log_to_wandb}[config.tracker]
    try:
        log(config, results, checkpoint)
    except Exception as error:  # no server, a full disk: nothing that should change the outcome of an evaluation
        print(
            f"warning: tracker={config.tracker} failed ({one_line(error)}); {Path(config.out) / METRICS_FILE} and the "
            "report are complete",
            file=sys.stderr,
        )
        if config.tracker == "wandb":
            tear_down_wandb()


def read_run_settings(checkpoint: Path) -> tuple[dict[str, Any], int]:
    """The nested settings of the training that wrote a checkpoint, and its number of finished steps.

    An exported model stores only `model` and `inputs`, and its steps are 0.
    """
    from omegaconf import OmegaConf

    if not (checkpoint / "state.json").is_file():
        return json.loads((checkpoint / "config.json").read_bytes()), 0
    state = json.loads((checkpoint / "state.json").read_bytes())
    settings: Any = OmegaConf.to_container(OmegaConf.create(state["config"]))
    return settings, state["step"]


def _log_to_tensorboard(config: EvalConfig, results: Results, checkpoint: Path) -> None:
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    settings, step = read_run_settings(checkpoint)
    metrics = {f"{TRACKER_PREFIX}{key}": value for key, value in results.metrics.items() if is_model_metric(key)}
    folder = Path(config.out) / TRACKERS["tensorboard"] / "evaluation"
    for outdated in folder.glob("events.out.tfevents.*"):  # a folder is a row, of one evaluation
        outdated.unlink()
    with SummaryWriter(str(folder)) as writer:
        # Without the summary that lists the columns: TensorBoard reads that of one run, for all runs.
        _, start, end = hparams(_flat_settings(settings), metrics)
        for summary in (start, end):
            writer.file_writer.add_summary(summary, step)
        for key, value in metrics.items():
            writer.add_scalar(key, value, step)
        for key, file in _pictures(config, results).items():
            writer.add_image(key, np.asarray(Image.open(file)), step, dataformats="HWC")


def _log_to_wandb(config: EvalConfig, results: Results, checkpoint: Path) -> None:
    import wandb

    settings, step = read_run_settings(checkpoint)
    out, video = Path(config.out), Path(config.out) / VIDEO_FILE
    os.environ.setdefault("WANDB_DATA_DIR", str(out / "wandb"))
    about = {key: value for key, value in results.about.items() if key != "config"}
    metrics = {TRACKER_PREFIX + key: value for key, value in results.metrics.items()}
    media: dict[str, Any] = {key: wandb.Image(str(file)) for key, file in _pictures(config, results).items()}
    if config.video and video.is_file():
        media["media/heatmap"] = wandb.Video(str(video), format="mp4")
    run = start_tracker(
        "wandb",
        lambda: wandb.init(
            project=TRACKERS["wandb"],
            name=f"{_run_name(config, settings)}-evaluation",
            id=_run_id(results),
            resume="allow",
            dir=str(out),
            job_type="evaluation",
            config=settings | {"evaluation": about},
        ),
    )
    run.log(metrics | media, step=step)
    run.summary.update(metrics)
    run.finish()


def _run_name(config: EvalConfig, settings: Mapping[str, Any]) -> str:
    return str(settings.get("name") or Path(config.checkpoint).resolve().name)


def _run_id(results: Results) -> str:
    """Results that are logged again update their W&B run."""
    return hashlib.sha256(json.dumps(results.about, sort_keys=True).encode()).hexdigest()[:12]


def _flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Settings by dotted key; lists, which TensorBoard does not know, as JSON."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat_settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return flat


def _pictures(config: EvalConfig, results: Results) -> dict[str, Path]:
    """The pictures of report.md, JPEG in RGB, by key of the tracker."""
    tasks = dict.fromkeys(key.partition("/")[0] for key in results.metrics if is_model_metric(key))
    files = {f"media/{task}/heatmaps": Path(config.out) / IMAGES / f"{task}.jpg" for task in tasks}
    return {key: file for key, file in files.items() if file.is_file()}
