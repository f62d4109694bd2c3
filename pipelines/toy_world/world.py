"""Generate all items of the toy world in a process pool, then write its tables and the file `toy_world.json`."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from configs.atomic_write import locked_run_dir
from configs.errors import UsageError
from configs.schema import ToyWorldConfig
from pipelines.toy_world import layouts
from pipelines.toy_world.media import json_text, write
from pipelines.worker_processes import forkserver_context

_FORMAT = 1  # increase it when the same settings give other files
_MARKER = "toy_world.json"


def main(config: ToyWorldConfig) -> None:
    """Generate the missing files and print a summary."""
    _check(config)
    out = Path(config.out)
    settings = {"format": _FORMAT} | {
        k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "processes")
    }
    marker = _read_marker(out)
    if marker and marker["settings"] != settings:
        changed = [
            f"{k}={marker['settings'].get(k)} (now {v})" for k, v in settings.items() if marker["settings"].get(k) != v
        ]
        raise UsageError(
            f"out={out} contains a toy world made with {', '.join(changed)}; use another out= or remove it"
        )
    if marker and marker["files"] and marker["files"] == _count_files(out):
        print(f"{out} is complete")
    else:
        with locked_run_dir(out):
            _write_marker(out, settings, files={})
            layouts.write_tables(config, _make_items(config))
            _write_marker(out, settings, _count_files(out))
    _print_summary(out)


def _check(config: ToyWorldConfig) -> None:
    if config.image_size_px % 2:
        raise UsageError(f"image_size_px={config.image_size_px} must be even (H.264 stores color at half resolution)")
    if not config.out:
        raise UsageError("out= is empty: set the output folder, for example out=data/toy")


def _make_items(config: ToyWorldConfig) -> dict[str, list[dict[str, Any]]]:
    """Generate every item in a process pool; returns the table rows of each part, in order."""
    from tqdm import tqdm

    parts = layouts.item_counts(config)
    names, numbers = zip(*((part, number) for part, count in parts.items() for number in range(count)), strict=True)
    context = forkserver_context(["pipelines.toy_world.layouts", "av", "soundfile"])
    pool = ProcessPoolExecutor(config.processes or os.cpu_count(), mp_context=context, initializer=_exit_with_parent)
    try:
        made = pool.map(partial(layouts.make_item, config), names, numbers, chunksize=8)
        rows = iter(list(tqdm(made, total=len(names), desc="toy world", unit="item")))
        return {part: list(itertools.islice(rows, count)) for part, count in parts.items()}
    except BrokenProcessPool:
        raise UsageError("a worker process was killed (out of memory?); run the same command again to resume") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit if the parent is killed: idle workers would wait forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_marker(out: Path) -> dict[str, Any] | None:
    """The content of `toy_world.json`, or None for a folder without a toy world.

    Raises:
        UsageError: the folder contains other data.
    """
    file = out / _MARKER
    if file.is_file():
        return json.loads(file.read_text())
    if unknown := sorted({top for top in (folder.split("/")[0] for folder in layouts.FOLDERS) if (out / top).exists()}):
        raise UsageError(f"out={out} contains {', '.join(unknown)} but no {_MARKER}: not a toy world; use another out=")
    return None


def _write_marker(out: Path, settings: dict[str, Any], files: dict[str, int]) -> None:
    write(out / _MARKER, json_text({"settings": settings, "files": files}).encode())


def _count_files(out: Path) -> dict[str, int]:
    """The number of files in each media folder, subfolders included, and of tables."""
    media = {folder: sum(path.is_file() for path in (out / folder).rglob("*")) for folder in layouts.FOLDERS}
    return media | {"tables": sum((out / table).is_file() for table in layouts.TABLES)}


def _print_summary(out: Path) -> None:
    print(f"{'folder':<32}{'files':>8}{'MB':>8}")
    for folder in layouts.FOLDERS:
        sizes = [path.stat().st_size for path in (out / folder).rglob("*") if path.is_file()]
        print(f"{folder:<32}{len(sizes):>8}{sum(sizes) / 1e6:>8.1f}")
