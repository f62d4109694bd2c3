"""Provenance of an evaluation: settings, and hashes of weights, data and code, as strings that can be compared.

Stored under `about` in metrics.json, so that an evaluation with nothing to do is recognized. Imports no torch.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from configs.load import flatten, to_yaml
from configs.schema import EvalConfig
from eval.results import METRICS_FILE, Results, read_metrics, results_from_json

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("configs", "eval", "model", "pipelines")
PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "accelerate", "numpy")
# Settings that name no evaluation data.
_NOT_DATA = ("checkpoint", "out", "feature_cache_dir")


def describe_inputs(config: EvalConfig, checkpoint: Path) -> dict[str, str]:
    """Everything that the numbers depend on; equal texts mean equal numbers.

    Args:
        checkpoint: the folder with the weights that are evaluated.

    Returns:
        Settings and versions in clear, hashes of the weights, the data and the source files. `data` is empty when a
        setting is a remote address, whose content cannot be compared.
    """
    return {
        "config": to_yaml(config),
        "checkpoint": hash_checkpoint(checkpoint, Path(config.checkpoint) / "history.jsonl"),
        "data": _hash_data(config),
        "code": _hash_sources(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def describe_run(processes: int) -> dict[str, str]:
    """How, when and from which commit an evaluation was run."""
    git = ["git", "describe", "--always", "--dirty= with changes", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # git is not installed
        commit = ""
    return {
        "command": shlex.join(["python", "-m", "eval.run", *sys.argv[1:]]),
        "commit": commit or "not in a git checkout",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": str(processes),
    }


def find_current_results(config: EvalConfig, reports: tuple[str, ...]) -> Results | None:
    """The results stored in `config.out`, if a new evaluation would give the same; None if anything has changed.

    Args:
        reports: files that belong to metrics.json and are written before it.
    """
    out, checkpoint = Path(config.out), Path(config.checkpoint)
    try:
        stored = read_metrics(out)
        results = results_from_json(stored)
        reports_time = max((out / name).stat().st_mtime_ns for name in reports)
        if not (checkpoint / "model.safetensors").is_file():
            checkpoint = max(checkpoint.glob("checkpoints/step_*"))
        current = describe_inputs(config, checkpoint)
        is_current = (out / METRICS_FILE).stat().st_mtime_ns >= reports_time and bool(current["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return results if is_current and current.items() <= stored["about"].items() else None


def hash_checkpoint(folder: Path, history: Path) -> str:
    """Of the weights that are evaluated (averaged ones, where they exist), the architecture, and the logged losses."""
    weights = folder / "ema.safetensors"
    digest = hashlib.sha256()
    for file in (folder / "config.json", weights if weights.is_file() else folder / "model.safetensors", history):
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _hash_data(config: EvalConfig) -> str:
    """Of name, size and modification time of every file that a setting names; of shards, also their manifest."""
    digest = hashlib.sha256()
    for text in _texts(config):
        if "://" in text:
            return ""
        with suppress(OSError):  # a text that is too long for a path
            for file in _files(Path(text)):
                state = file.stat()
                is_manifest = file.name == "manifest.json"
                content = file.read_bytes() if is_manifest else b"%d %d" % (state.st_size, state.st_mtime_ns)
                digest.update(b"%s\0%s\0" % (os.fsencode(file), content))
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    manifest = path / "manifest.json"
    return sorted([manifest, *path.glob("*.tar")] if manifest.is_file() else filter(Path.is_file, path.rglob("*")))


def _texts(config: EvalConfig) -> Iterator[str]:
    """Every text in the settings that may name data, if it is not empty."""
    for key, value in flatten(config):
        if key not in _NOT_DATA:
            values = value if isinstance(value, list) else [value]
            yield from (text for text in values if text and isinstance(text, str))


def _hash_sources() -> str:
    """Of all source files, also uncommitted ones: the same in a git checkout and in an installation."""
    digest = hashlib.sha256()
    for file in sorted(file for package in SOURCES for file in (ROOT / package).rglob("*") if file.is_file()):
        if "__pycache__" not in file.parts:
            digest.update(b"%s\0%s\0" % (os.fsencode(file.relative_to(ROOT)), file.read_bytes()))
    return digest.hexdigest()
