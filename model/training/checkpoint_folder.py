"""The checkpoint folders of a run: find the newest valid one, prune old ones, link the best one. Needs no torch.

runs/NAME/checkpoints/step_00001000/    see model.training.checkpoint for the files
runs/NAME/checkpoints/best              link to the checkpoint with the highest `checkpoint.best_metric`
runs/NAME/checkpoints/damaged_step_X/   damaged checkpoints that a resumed run went back past
"""

import difflib
import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.atomic_write import atomic_open, temporary_path
from configs.errors import CommandFailed

BEST = "best"
# Metrics of an evaluation that ended after the checkpoint was written; earlier ones are in state.json. The file is not
# in the checkpoint's manifest. It has the form of eval.run's metrics.json, which may replace it.
METRICS = "metrics.json"
MANIFEST = "manifest.json"


def step_folders(root: Path) -> list[Path]:
    """The checkpoint folders below `root`, newest first; other names are ignored."""
    try:
        folders = [folder for folder in root.iterdir() if re.fullmatch(r"step_\d+", folder.name)]
    except FileNotFoundError:
        return []
    return sorted(folders, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The number of finished steps of a checkpoint, from its name."""
    return int(folder.name[5:])


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_corruption(folder: Path) -> str | None:
    """Compare the files of a checkpoint with the hashes in its manifest.

    Returns:
        What is damaged, in a few words; None if all hashes match.

    Raises:
        CommandFailed: a file cannot be read, for example without permission, so that it may be intact.
    """
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
        if missing := {"config.json", "model.safetensors", "optimizer.safetensors", "state.json"} - hashes.keys():
            return f"{MANIFEST} does not list {', '.join(sorted(missing))}"
        with ThreadPoolExecutor() as pool:
            actual = pool.map(sha256, [folder / name for name in hashes])
            for (name, expected), digest in zip(hashes.items(), actual, strict=True):
                if digest != expected:
                    return f"{name} has changed"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    except OSError as error:
        raise CommandFailed(
            f"{error.filename or folder} cannot be read: {error.strerror}; nothing was changed"
        ) from None
    return None


def newest_checkpoint(root: Path) -> Path | None:
    """The newest valid checkpoint below `root`. Damaged ones are skipped with a warning.

    Returns:
        None if there are no checkpoints.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
        CommandFailed: one cannot be read.
    """
    folders = step_folders(root)
    for folder in folders:
        damage = find_corruption(folder)
        if damage is None:
            return folder
        print(f"warning: {folder} is damaged ({damage}): trying the previous checkpoint", file=sys.stderr)
    if folders:
        raise ValueError(
            f"{root}: all {len(folders)} checkpoints are damaged; restore one, or remove them to start from scratch"
        )
    return None


def clean_up_interrupted(root: Path, step: int) -> None:
    """Prepare to resume from `step`: remove what a killed run was writing, and rename later, damaged checkpoints.

    They become damaged_step_X, so that they are not newer than the checkpoints that the run will write.
    """
    for leftover in root.glob(".*.tmp"):
        leftover.unlink() if leftover.is_symlink() else shutil.rmtree(leftover)
    for folder in step_folders(root):
        if step_of(folder) > step:
            renamed = folder.with_name(f"damaged_{folder.name}")
            shutil.rmtree(renamed, ignore_errors=True)
            folder.rename(renamed)
    if (root / BEST).is_symlink() and not (root / BEST).exists():
        (root / BEST).unlink()


def prune(root: Path, keep_last: int, keep_every_n_steps: int = 0) -> None:
    """Remove all checkpoints but the newest `keep_last`, the best one, and multiples of `keep_every_n_steps`."""
    best = (root / BEST).resolve()
    for folder in step_folders(root)[keep_last:]:
        if folder.resolve() != best and not (keep_every_n_steps and step_of(folder) % keep_every_n_steps == 0):
            shutil.rmtree(folder)


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Add the metrics of a later evaluation to a checkpoint on disk."""
    with atomic_open(folder / METRICS) as file:
        file.write((json.dumps({"metrics": dict(metrics)}, indent=2) + "\n").encode())


def update_best_link(root: Path, folder: Path, metric: str) -> None:
    """Link `root/best` to a checkpoint if its metric is higher than that of the checkpoint linked so far.

    A checkpoint without this metric, or whose metric is NaN, is never linked.
    """
    if _read_metrics(folder).get(metric, math.nan) > _read_metrics(root / BEST).get(metric, -math.inf):
        temporary = temporary_path(root / BEST)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(root / BEST)


def check_metric(metric: str, metrics: Mapping[str, float]) -> None:
    """Check that the evaluation computes the metric that selects the best checkpoint.

    Raises:
        ValueError: there are metrics, and this one is not among them.
    """
    if metrics and metric not in metrics:
        near = difflib.get_close_matches(metric, metrics, n=3, cutoff=0.3) or sorted(metrics)[:3]
        raise ValueError(
            f"checkpoint.best_metric={metric}: the evaluation has no such metric; similar ones are {', '.join(near)}"
        )


def _read_metrics(folder: Path) -> dict[str, float]:
    if not folder.exists():
        return {}
    late = folder / METRICS
    metrics: dict[str, float] = json.loads((folder / "state.json").read_text())["metrics"]
    return metrics | (json.loads(late.read_text())["metrics"] if late.exists() else {})
