"""The checkpoints of a run: which one to go on from, which are kept, which was best, and how they are written beside the training."""

from __future__ import annotations

import difflib
import json
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from configs.schema import CheckpointConfig
from model.training.checkpoint import Snapshot, find_corruption, write

BEST = "best"
# Of an evaluation that came after the checkpoint was written; what came before is in state.json.
METRICS = "metrics.json"


class CheckpointManager:
    """A run's folder of checkpoints, to which one at a time is added while training goes on.

    A disk that refuses is told in one line and the run goes on; leaving the block waits for what is being written.

    Args:
        root: the folder; made when needed.
        config: what is kept.
        step: of the checkpoint the run goes on from, 0 for none.

    Attributes:
        newest: step of the newest checkpoint that is on disk.
    """

    def __init__(self, root: Path, config: CheckpointConfig, step: int = 0) -> None:
        self.root, self.newest, self._config = root, step, config
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, snap: Snapshot) -> None:
        """Begin to write a checkpoint, once the one before is written.

        Raises:
            ValueError: its metrics have none of the name that decides which one is best. (It is written all the same.)
        """
        self.finish()
        self._thread = threading.Thread(target=self._add, args=(snap,), daemon=True)
        self._thread.start()
        if self._config.best_metric:
            check_metric(self._config.best_metric, snap.texts["state.json"]["metrics"])

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Note what an evaluation found of the newest checkpoint when that was on disk already: in metrics.json beside its state.

        Raises:
            ValueError: as `add`.
        """
        folder = self.root / f"step_{self.finish():08d}"
        try:
            temporary = self.root / f".{METRICS}.tmp"
            temporary.write_text(json.dumps(dict(metrics), indent=2) + "\n")
            temporary.replace(folder / METRICS)
        except OSError as error:
            print(
                f"warning: {folder / METRICS}: {error.strerror or error}; this checkpoint cannot become the best one",
                file=sys.stderr,
            )
        if self._config.best_metric:
            update_best_link(self.root, folder, self._config.best_metric)
            check_metric(self._config.best_metric, metrics)

    def finish(self) -> int:
        """Wait until what was added is on disk, or could not be written; returns `newest`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self.newest

    def _add(self, snap: Snapshot) -> None:
        try:
            folder = write(self.root, snap)
            self.newest = snap.step
            if self._config.best_metric:
                update_best_link(self.root, folder, self._config.best_metric)
            prune(self.root, self._config.keep_last, self._config.keep_every_n_steps)
        except OSError as error:
            where = f"the newest is that of step {self.newest}" if self.newest else "there is none yet"
            print(
                f"warning: no checkpoint of step {snap.step}: {error.strerror or error}, {self.root}; {where}",
                file=sys.stderr,
            )
        except BaseException as error:  # told by the thread that trains
            self._error = error

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.finish()


def newest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint; a damaged one is skipped with a warning for the one before; None when there are no checkpoints.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    folders = _step_folders(root)
    for folder in folders:
        damage = find_corruption(folder)
        if damage is None:
            return folder
        print(f"warning: {folder} is damaged ({damage}): going back to the checkpoint before it", file=sys.stderr)
    if folders:
        raise ValueError(
            f"{root}: all {len(folders)} checkpoints are damaged; restore one, or remove them to begin anew"
        )
    return None


def clean_up_interrupted(root: Path, step: int) -> None:
    """Before a run goes on from `step`: remove what a killed one was writing, and rename later (damaged) checkpoints to damaged_step_X, so that none
    is taken for a newer one than those the run will write."""
    for left in root.glob(".*.tmp"):
        left.unlink() if left.is_symlink() else shutil.rmtree(left)
    for folder in _step_folders(root):
        if _step_of(folder) > step:
            aside = folder.with_name(f"damaged_{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
    if (root / BEST).is_symlink() and not (root / BEST).exists():
        (root / BEST).unlink()


def prune(root: Path, keep_last: int, keep_every_n_steps: int = 0) -> None:
    """Remove all but the newest `keep_last` checkpoints, the best one, and those at multiples of `keep_every_n_steps`."""
    best = (root / BEST).resolve()
    for folder in _step_folders(root)[keep_last:]:
        if folder.resolve() != best and not (keep_every_n_steps and _step_of(folder) % keep_every_n_steps == 0):
            shutil.rmtree(folder)


def update_best_link(root: Path, folder: Path, metric: str) -> bool:
    """Let the link `root/best` lead to a checkpoint, if its metric is higher than that of the one it leads to. One without metrics stays unmarked."""
    value = _metrics(folder).get(metric)
    if value is None or not value > _metrics(root / BEST).get(metric, float("-inf")):
        return False
    temporary = root / f".{BEST}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(root / BEST)
    return True


def check_metric(metric: str, metrics: Mapping[str, float]) -> None:
    """Refuse the name of a metric that an evaluation does not give.

    Raises:
        ValueError: there are metrics, but not this one.
    """
    if metrics and metric not in metrics:
        near = difflib.get_close_matches(metric, metrics, n=3, cutoff=0.3) or sorted(metrics)[:3]
        raise ValueError(
            f"checkpoint.best_metric={metric}: the evaluation gives no such metric; near it are {', '.join(near)}"
        )


def _metrics(folder: Path) -> dict[str, float]:
    if not folder.exists():
        return {}
    late = folder / METRICS
    return json.loads((folder / "state.json").read_text())["metrics"] | (
        json.loads(late.read_text()) if late.exists() else {}
    )


def _step_folders(root: Path) -> list[Path]:
    """The folders of checkpoints, newest first; other names are left alone."""
    return sorted((folder for folder in root.glob("step_*") if folder.name[5:].isdigit()), key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    return int(folder.name[5:])
