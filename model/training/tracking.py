"""What a run tells: one JSON line for each logged step (`history.jsonl`, the source of the report's curves), a tracker, a progress bar."""

from __future__ import annotations

import json
import netrc
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.command import UsageError

TRACKERS = ("wandb", "none")


def tracker_names(tracker: str) -> list[str]:
    """What Accelerate is to log with. W&B without a key, in the environment or from `wandb login`, writes offline.

    Raises:
        UsageError: an unknown tracker.
    """
    if tracker not in TRACKERS:
        raise UsageError(f"tracker={tracker}: allowed are {', '.join(TRACKERS)}")
    if tracker == "wandb" and not os.environ.get("WANDB_API_KEY") and not _logged_in():
        os.environ.setdefault("WANDB_MODE", "offline")
    return [] if tracker == "none" else [tracker]


def _logged_in() -> bool:
    """Whether `wandb login` has left a key in ~/.netrc."""
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class History:
    """The file of logged steps; a resumed run drops the lines written after its checkpoint.

    Args:
        path: history.jsonl of the run.
        start_step: number of steps finished in the checkpoint the run goes on from.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        kept = [line for line in read_history(path) if line["step"] <= start_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: round(float(v), 6) for k, v in values.items()}}) + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged steps in order; a line cut off by a kill is left out; [] without a file."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class Meter:
    """Clips per second, the share of time spent waiting for data, and rejected clips by reason since the last reading.

    Args:
        batch_size: global.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._reset()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside this block counts as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began

    def add(self, rejected: Mapping[str, int]) -> None:
        """Count one finished step and the clips its batch had to replace."""
        self.steps += 1
        self.rejected.update(rejected)

    def read(self) -> dict[str, float]:
        """The figures since the last call, rejected clips of all ranks together; every rank has to call it."""
        from accelerate.utils import gather_object

        elapsed_s = max(time.perf_counter() - self.began, 1e-9)
        values = {"clips_per_s": self.steps * self.batch_size / elapsed_s, "data_wait_share": self.waited_s / elapsed_s}
        rejected = sum(map(Counter, gather_object([dict(self.rejected)])), Counter())
        values |= {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
        self._reset()
        return values

    def _reset(self) -> None:
        self.began, self.waited_s, self.steps, self.rejected = time.perf_counter(), 0.0, 0, Counter()
