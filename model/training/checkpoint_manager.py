"""Write the checkpoints of a run in a background thread, keep the wanted ones, and link the best."""

import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from configs.schema import CheckpointConfig
from model.training.checkpoint import Snapshot, write
from model.training.checkpoint_folder import METRICS, check_metric, prune, update_best_link, write_metrics


class CheckpointManager(AbstractContextManager["CheckpointManager"]):
    """Writes one checkpoint at a time while training continues; leaving the `with` block waits for the last one.

    Write errors are logged as warnings; training continues.

    Args:
        root: folder of the checkpoints, created when needed.
        config: which checkpoints to keep.
        step: step of the checkpoint the run resumes from; 0 for none.

    Attributes:
        newest: step of the newest checkpoint on disk.
    """

    def __init__(self, root: Path, config: CheckpointConfig, step: int = 0) -> None:
        self.root, self.newest, self._config = root, step, config
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, snap: Snapshot) -> None:
        """Start to write a checkpoint, after the previous one is written.

        Raises:
            ValueError: its metrics lack the one that selects the best checkpoint. It is written nevertheless.
        """
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(snap,), daemon=True)
        self._thread.start()
        if self._config.best_metric:
            check_metric(self._config.best_metric, snap.texts["state.json"]["metrics"])

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a late evaluation to the newest checkpoint on disk.

        Raises:
            ValueError: as `add`.
        """
        folder = self.root / f"step_{self.finish():08d}"
        try:
            write_metrics(folder, metrics)
        except OSError as error:
            print(
                f"warning: {folder / METRICS}: {error.strerror or error}; this checkpoint cannot become the best one",
                file=sys.stderr,
            )
        if self._config.best_metric:
            update_best_link(self.root, folder, self._config.best_metric)
            check_metric(self._config.best_metric, metrics)

    def finish(self) -> int:
        """Wait until the last added checkpoint is on disk or has failed; returns `newest`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self.newest

    def _write(self, snap: Snapshot) -> None:
        try:
            folder = write(self.root, snap)
            self.newest = snap.step
            if self._config.best_metric:
                update_best_link(self.root, folder, self._config.best_metric)
            prune(self.root, self._config.keep_last, self._config.keep_every_n_steps)
        except OSError as error:
            newest = f"the newest checkpoint is that of step {self.newest}" if self.newest else "there is no other yet"
            print(
                f"warning: no checkpoint of step {snap.step}: {error.strerror or error}, {self.root}; {newest}",
                file=sys.stderr,
            )
        except BaseException as error:  # raised by `finish` in the training thread
            self._error = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.finish()
