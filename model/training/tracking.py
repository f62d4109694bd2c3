"""Logging of a run: history.jsonl (one JSON line per logged step), an experiment tracker, a progress bar.

The history is complete even if the tracker fails. A run that resumes continues the same W&B run, whose id is stored in
the run folder; steps that W&B received before the interruption are not sent twice. Send offline runs with `wandb sync
--append FOLDER/wandb/offline-run-*`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import netrc
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from configs.atomic_write import atomic_open
from configs.errors import CommandFailed
from configs.load import to_yaml
from configs.schema import TrainConfig
from model.training.learning_check import LearningCheck
from model.training.wandb_artifacts import log_checkpoint, log_data_sets

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

# Steps with trained encoders after which a run that has learned nothing is reported: small encoders from scratch leave
# their plateau after several hundred.
PLATEAU_STEPS = 1000
# Accelerate's name of a tracker -> project name, which for TensorBoard is a folder below the run folder.
TRACKERS = {"wandb": "denseav", "tensorboard": "tensorboard", "none": ""}


class Table(NamedTuple):
    """A table whose cells are text, numbers, or images, uint8 [H_px, W_px, 3]."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Media(NamedTuple):
    """Media to log, by name: images uint8 [H_px, W_px, 3], paths of mp4 files, tables."""

    images: Mapping[str, np.ndarray] = MappingProxyType({})
    videos: Mapping[str, Path] = MappingProxyType({})
    tables: Mapping[str, Table] = MappingProxyType({})


def tracker_names(tracker: str) -> list[str]:
    """The trackers for Accelerate. W&B without a key (environment or `wandb login`) is set to write offline.

    Raises:
        ValueError: the tracker is not installed.
    """
    if tracker == "none":
        return []
    if importlib.util.find_spec(tracker) is None:
        raise ValueError(f"tracker={tracker}: the package {tracker} is not installed")
    if tracker == "wandb" and not has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    return [tracker]


def has_wandb_key() -> bool:
    """Whether WANDB_API_KEY is set, or `wandb login` has stored a key in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class RunLogger(contextlib.AbstractContextManager["RunLogger"]):
    """History, tracker and progress bar of a run, used in a `with` block. On ranks other than 0 it does nothing.

    If a tracker fails, a warning is logged once and the run continues without it.

    Args:
        accelerator: created with `tracker_names`.
        config: of the run.
        folder: of the run.
        start: number of finished steps in the checkpoint the run resumes from.
        fingerprint: of the stream, whose data sets W&B gets as artifacts; None: no artifacts.

    Raises:
        CommandFailed: the tracker does not start.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainConfig,
        folder: Path,
        start: int,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        from tqdm import tqdm

        on_main = accelerator.is_main_process
        self._config, self._folder, self._fingerprint = config, folder, fingerprint
        self._trackers = accelerator.trackers
        self._bar = tqdm(total=config.steps, initial=start, unit="step", disable=not on_main, dynamic_ncols=True)
        self._history = History(folder / "history.jsonl", start) if on_main else None
        self._learning = LearningCheck(config.global_batch_size)
        if on_main and config.tracker != "none":
            _start(accelerator, config, folder, start)
            if config.tracker == "tensorboard":
                self._for_each_tracker(lambda tracker: tracker.log({"settings": to_yaml(config)}, step=start))
            elif config.tracker == "wandb" and fingerprint:
                sources = config.stream.sources
                self._for_each_tracker(lambda tracker: log_data_sets(tracker.tracker, sources, fingerprint))

    def step(self) -> None:
        """Advance the progress bar by one step."""
        self._bar.update()

    def note(self, text: str) -> None:
        """Print a line above the progress bar; "": nothing."""
        if text and self._history is not None:
            self._bar.write(text)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step; may be called several times for one step."""
        if self._history is None:
            return
        self._history.add(step, values)
        self._learning.add(values)
        if warning := self._learning.warning(step, self._config.frozen_encoder_steps + PLATEAU_STEPS):
            self.note(f"warning: {warning}")
        parts = {
            "loss/total": "loss {:.3f}",
            "accuracy": "accuracy {:.0%}",
            "clips_per_s": "{:.0f} clips/s",
            "data_time_fraction": "data {:.0%}",
        }
        if shown := [form.format(values[key]) for key, form in parts.items() if key in values]:
            self._bar.set_postfix_str("  ".join(shown), refresh=False)  # shown with the next step
        self._for_each_tracker(lambda tracker: tracker.log(dict(values), step=step) if _is_new(tracker, step) else None)

    def log_media(self, step: int, media: Media) -> None:
        """Log images, videos and tables to the tracker; TensorBoard gets the images only."""
        self._for_each_tracker(lambda tracker: _log_media(tracker, step, media) if _is_new(tracker, step) else None)

    def _for_each_tracker(self, call: Callable[[Any], None]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:  # a killed service, a full disk: nothing that should end a run
                print(
                    f"warning: tracker={tracker.name} failed ({one_line(error)}); the run continues without it, "
                    "history.jsonl is complete",
                    file=sys.stderr,
                )
                self._trackers.clear()
                if tracker.name == "wandb":
                    tear_down_wandb()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._history is not None:
            if kind is None and self._learning.has_learned_nothing():
                print(f"warning: {self._learning.describe()}", file=sys.stderr)
            if kind is None and self._fingerprint and self._config.tracker == "wandb":
                root = self._folder / "checkpoints"
                self._for_each_tracker(lambda tracker: log_checkpoint(tracker.tracker, self._config, root))
            self._for_each_tracker(
                lambda tracker: (
                    tracker.tracker.finish(exit_code=1) if kind and tracker.name == "wandb" else tracker.finish()
                )
            )
        self._trackers.clear()  # Accelerate would finish them again


def _start(accelerator: Accelerator, config: TrainConfig, folder: Path, start: int) -> None:
    """Start the tracker of a run."""
    # purge_step hides what was written after the checkpoint.
    settings: dict[str, Any] = {"init_kwargs": {"tensorboard": {"purge_step": start + 1}}}
    if config.tracker == "wandb":
        # Images in tables too are stored in the run folder until they are sent.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))
        names = {"name": config.name, "dir": str(folder), "id": _wandb_run_id(folder, start), "resume": "allow"}
        settings = {"config": dataclasses.asdict(config), "init_kwargs": {"wandb": names}}

    def start_trackers() -> None:
        accelerator.trackers.clear()
        accelerator.init_trackers(TRACKERS[config.tracker], **settings)

    start_tracker(config.tracker, start_trackers)


def start_tracker(name: str, start: Callable[[], T]) -> T:
    """Return what `start` returns; if W&B's server does not answer, start again offline, with a warning.

    Raises:
        CommandFailed: the tracker does not start.
    """
    try:
        return start()
    except Exception as error:  # W&B's errors have no common base
        if name != "wandb" or os.environ.get("WANDB_MODE") == "offline":
            raise CommandFailed(
                f"tracker={name} does not start: {one_line(error)}; set another one, or tracker=none"
            ) from None
        print(f"warning: W&B does not start ({one_line(error)}): logging offline", file=sys.stderr)
        os.environ["WANDB_MODE"] = "offline"
        tear_down_wandb()
        return start()


def _wandb_run_id(folder: Path, start: int) -> str:
    """The stored W&B id of a resumed run; a fresh run gets a new one."""
    file = folder / "wandb_run_id"
    if not (start and file.is_file()):
        file.write_text(secrets.token_hex(4) + "\n")
    return file.read_text().strip()


def _is_new(tracker: Any, step: int) -> bool:
    """Whether the tracker accepts values of this step: W&B ignores steps before its last one."""
    return tracker.name != "wandb" or step >= tracker.tracker.step


def _log_media(tracker: Any, step: int, media: Media) -> None:
    if tracker.name == "tensorboard":
        images = {name: image[None] for name, image in media.images.items()}
        tracker.log_images(images, step=step, dataformats="NHWC")
        return
    import wandb

    values: dict[str, Any] = {name: wandb.Image(image) for name, image in media.images.items()}
    values |= {name: wandb.Video(str(path), format="mp4") for name, path in media.videos.items()}
    for name, table in media.tables.items():
        rows = [[wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in table.rows]
        values[name] = wandb.Table(columns=list(table.columns), data=rows)
    tracker.log(values, step=step)


def tear_down_wandb() -> None:
    """Stop W&B's service, which would keep the run's id in use and report its failure again at exit."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def one_line(error: BaseException) -> str:
    """Class and message of an error, at most 200 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class History:
    """The file of logged steps; a resumed run drops the lines written after its checkpoint.

    Args:
        path: history.jsonl of the run.
        start_step: number of finished steps in the checkpoint the run resumes from.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path, self._unwritten = path, ""
        lines = [json.dumps(line) + "\n" for line in read_history(path) if line["step"] <= start_step]
        with atomic_open(path) as file:
            file.write("".join(lines).encode())

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step. If the disk is full, they are written with those of a later step."""
        self._unwritten += json.dumps({"step": step, **{k: float(f"{v:.7g}") for k, v in values.items()}}) + "\n"
        try:
            with self.path.open("a") as file:
                file.write(self._unwritten)
            self._unwritten = ""
        except OSError as error:
            if not self._unwritten.startswith("\n"):
                print(f"warning: {self.path}: {error.strerror}; trying again with the next line", file=sys.stderr)
                self._unwritten = "\n" + self._unwritten  # part of a line may have been written


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the logged steps in order. Incomplete and damaged lines are skipped; [] without a file."""
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
