"""What a run tells: one JSON line for each logged step (`history.jsonl`, the source of the report's curves), a tracker, a progress bar.

The history is complete whatever happens to the tracker. A run that goes on from a checkpoint goes on in the same run of W&B, whose id lies in the run's
folder; steps that W&B has seen before the interruption are not sent twice. Offline runs are sent with `wandb sync --append FOLDER/wandb/offline-run-*`.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs.errors import CommandFailed
from configs.load import to_yaml
from configs.schema import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

# Name for Accelerate -> the project. TensorBoard's is the folder below the run's.
TRACKERS = {"wandb": "denseav", "tensorboard": "tensorboard", "none": ""}


class Table(NamedTuple):
    """Rows of cells: text, numbers, or pictures, uint8 [H_px, W_px, 3]."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Media(NamedTuple):
    """What is to be seen and heard of a model, by name: pictures uint8 [H_px, W_px, 3], mp4 files, tables."""

    pictures: Mapping[str, np.ndarray] = MappingProxyType({})
    videos: Mapping[str, Path] = MappingProxyType({})
    tables: Mapping[str, Table] = MappingProxyType({})


def tracker_names(tracker: str) -> list[str]:
    """What Accelerate is to log with. W&B without a key, in the environment or from `wandb login`, writes offline.

    Raises:
        ValueError: the tracker is not installed.
    """
    if tracker == "none":
        return []
    if importlib.util.find_spec(tracker) is None:
        raise ValueError(f"tracker={tracker}: the package {tracker} is not installed")
    if tracker == "wandb" and not os.environ.get("WANDB_API_KEY") and not _logged_in():
        os.environ.setdefault("WANDB_MODE", "offline")
    return [tracker]


def _logged_in() -> bool:
    """Whether `wandb login` has left a key in ~/.netrc."""
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class RunLogger:
    """History, tracker and progress bar of a run, open inside a `with` block. On all ranks but the first one it does nothing.

    A tracker that fails is told once and left alone; the run goes on without it.

    Args:
        accelerator: made with `tracker_names`.
        config: of the run.
        folder: of the run.
        start: finished steps in the checkpoint the run goes on from.

    Raises:
        CommandFailed: the tracker does not start.
    """

    def __init__(self, accelerator: Accelerator, config: TrainConfig, folder: Path, start: int) -> None:
        from tqdm import tqdm

        on_main = accelerator.is_main_process
        self._trackers = accelerator.trackers
        self._bar = tqdm(total=config.steps, initial=start, unit="step", disable=not on_main, dynamic_ncols=True)
        self._history = History(folder / "history.jsonl", start) if on_main else None
        if on_main and config.tracker != "none":
            _start(accelerator, config, folder, start)
            if config.tracker == "tensorboard":
                self._for_each_tracker(lambda tracker: tracker.log({"settings": to_yaml(config)}, step=start))

    def step(self) -> None:
        """One more step is done."""
        self._bar.update()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step, or more of the same one."""
        if self._history is None:
            return
        self._history.add(step, values)
        parts = {"loss/total": "loss {:.3f}", "clips_per_s": "{:.0f} clips/s", "data_time_fraction": "waiting {:.0%}"}
        if said := [form.format(values[key]) for key, form in parts.items() if key in values]:
            self._bar.set_postfix_str("  ".join(said), refresh=False)  # with the next step
        self._for_each_tracker(lambda tracker: tracker.log(dict(values), step=step) if _is_new(tracker, step) else None)

    def log_media(self, step: int, media: Media) -> None:
        """Give pictures, videos and tables to the tracker; TensorBoard takes pictures only."""
        self._for_each_tracker(lambda tracker: _show(tracker, step, media) if _is_new(tracker, step) else None)

    def _for_each_tracker(self, say: Callable[[Any], None]) -> None:
        for tracker in self._trackers:
            try:
                say(tracker)
            except Exception as error:  # a service that was killed, a full disk: nothing that should end a run
                print(
                    f"warning: tracker={tracker.name} has failed ({_one_line(error)}); the run goes on without it, history.jsonl has all",
                    file=sys.stderr,
                )
                self._trackers.clear()
                if tracker.name == "wandb":
                    _forget_wandb()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._history is not None:
            self._for_each_tracker(
                lambda tracker: (
                    tracker.tracker.finish(exit_code=1) if kind and tracker.name == "wandb" else tracker.finish()
                )
            )
        self._trackers.clear()  # Accelerate would finish them once more


def _start(accelerator: Accelerator, config: TrainConfig, folder: Path, start: int) -> None:
    """Start the tracker; W&B offline where its server does not answer: a run that is started again at night goes on."""
    settings: dict[str, Any] = {
        "init_kwargs": {"tensorboard": {"purge_step": start + 1}}
    }  # hides what was written after the checkpoint
    if config.tracker == "wandb":
        os.environ.setdefault(
            "WANDB_DATA_DIR", str(folder / "wandb")
        )  # pictures in tables too lie in the run's folder until they are sent
        names = {"name": config.name, "dir": str(folder), "id": _wandb_run_id(folder, start), "resume": "allow"}
        settings = {"config": dataclasses.asdict(config), "init_kwargs": {"wandb": names}}
    try:
        accelerator.init_trackers(TRACKERS[config.tracker], **settings)
    except Exception as error:  # W&B's errors have no common base
        if config.tracker != "wandb" or os.environ.get("WANDB_MODE") == "offline":
            raise CommandFailed(
                f"tracker={config.tracker} does not start: {_one_line(error)}; give another one, or tracker=none"
            ) from None
        print(f"warning: W&B does not start ({_one_line(error)}): this run writes offline", file=sys.stderr)
        os.environ["WANDB_MODE"] = "offline"
        accelerator.trackers.clear()
        _forget_wandb()
        accelerator.init_trackers(TRACKERS[config.tracker], **settings)


def _wandb_run_id(folder: Path, start: int) -> str:
    """The id a run that goes on began with; a run that begins anew gets a new one."""
    file = folder / "wandb_run_id"
    if not (start and file.is_file()):
        file.write_text(secrets.token_hex(4) + "\n")
    return file.read_text().strip()


def _is_new(tracker: Any, step: int) -> bool:
    """Whether W&B takes values of this step: none before the last one it has."""
    return tracker.name != "wandb" or step >= tracker.tracker.step


def _show(tracker: Any, step: int, media: Media) -> None:
    if tracker.name == "tensorboard":
        tracker.log_images(
            {name: picture[None] for name, picture in media.pictures.items()}, step=step, dataformats="NHWC"
        )
        return
    import wandb

    shown = {name: wandb.Image(picture) for name, picture in media.pictures.items()}
    shown |= {name: wandb.Video(str(path), format="mp4") for name, path in media.videos.items()}
    for name, table in media.tables.items():
        rows = [[wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in table.rows]
        shown[name] = wandb.Table(columns=list(table.columns), data=rows)
    tracker.log(shown, step=step)


def _forget_wandb() -> None:
    """End W&B's service and what is left of its run: it would hold the run's id, and report its failure again as the process ends."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class History:
    """The file of logged steps; a resumed run drops the lines written after its checkpoint.

    Args:
        path: history.jsonl of the run.
        start_step: number of steps finished in the checkpoint the run goes on from.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path, self._unwritten = path, ""
        kept = [line for line in read_history(path) if line["step"] <= start_step]
        whole = path.with_name(f".{path.name}.tmp")
        whole.write_text("".join(json.dumps(line) + "\n" for line in kept))
        whole.replace(path)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step; on a disk that is full, with the next one that finds room."""
        self._unwritten += json.dumps({"step": step, **{k: float(f"{v:.7g}") for k, v in values.items()}}) + "\n"
        try:
            with self.path.open("a") as file:
                file.write(self._unwritten)
            self._unwritten = ""
        except OSError as error:
            if not self._unwritten.startswith("\n"):
                print(f"warning: {self.path}: {error.strerror}; lines are kept until there is room", file=sys.stderr)
                self._unwritten = "\n" + self._unwritten  # a line may be there in part


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged steps in order; a line cut off by a kill, or damaged, is left out; [] without a file."""
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
