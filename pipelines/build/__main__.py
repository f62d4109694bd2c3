"""Build one split of a data set into shards.

    python -m pipelines.build config=configs/build/toy.yaml source.root=... out=...

Writes to `out`, a folder or any fsspec address: build.json (the settings), SPLIT-000000.tar and .json for each shard,
rejected.jsonl, stats.json, and last manifest.json, which marks the data set as complete. Builds are resumable: rerun
the command after an interruption. Finished shards are kept, and the output is byte-identical for any number of workers:
executor=local, executor=ray on the cluster of RAY_ADDRESS, or a job array (executor=slice slice=3/100 ..., then
slice=finish). The data set does not depend on the path of `source.root`. retry_rejected=true retries rejected clips
whose media have changed; media of written clips are not checked again. append=true adds the new rows of a source to a
finished data set (append.py).
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import BuildConfig
from pipelines.build.append import KeptPart, read_additions, read_finished_part, remove_unlisted_shards
from pipelines.build.build_spec import prepare
from pipelines.build.duration_check import warn_of_durations
from pipelines.build.executors import EXECUTORS, OnClips, shards_of_slice
from pipelines.build.finalize import print_table, read_complete_manifest, write_manifest
from pipelines.build.preflight import MediaCheck, print_dry_run, print_idle_processes, require_media
from pipelines.build.row_table import RowTable, write_rows
from pipelines.build.windows import cut_into_windows
from pipelines.manifest import is_id
from pipelines.sources.filters import filtered
from pipelines.sources.registry import SOURCES
from pipelines.storage import Folder, open_folder

_MIN_STRIDE_S = 0.1


def main(config: BuildConfig) -> int:
    """Build the missing shards of the data set and print a summary; returns the exit code."""
    from tqdm import tqdm  # not for --help

    _validate(config)
    if config.decode.channel == "auto":
        config.decode.channel = "loudest" if config.source.kind in ("folder", "vggsound") else "first"
    media_check = MediaCheck(Path(config.source.root))
    rows = SOURCES[config.source.kind](config.source)
    rows = cut_into_windows(rows, config) if config.source.window_s else rows
    rows = filtered(rows, config.exclude, config.labels)
    out = open_folder(config.out)
    kept = read_finished_part(out, config) if config.append else read_additions(out)
    rows = kept.new_rows(rows) if kept else rows
    rows = media_check.count(tqdm(rows, desc="rows", unit="row", delay=1)) if config.executor != "slice" else rows
    if config.dry_run:
        return print_dry_run(config, media_check, rows)
    rows = itertools.chain([*itertools.islice(rows, 1)], rows)  # an invalid source fails before `out` is created
    out.create()
    is_slice = config.executor == "slice"
    with contextlib.nullcontext() if is_slice else out.folder_lock():
        if not is_slice:
            out.remove_leftovers()
        with out.scratch() as scratch:
            table = write_rows(rows, Path(scratch) / "rows.jsonl", config.seed, config.clips_per_shard)
            return _build(config, table, out, media_check, kept)


def _build(config: BuildConfig, table: RowTable, out: Folder, media_check: MediaCheck, kept: KeptPart | None) -> int:
    adds_to = kept if config.append else None
    if adds_to and not len(table) and not adds_to.recipe:
        print_table(out, adds_to.manifest)
        return 0
    if not table.clips:
        raise UsageError(
            f"source.root={config.source.root!r} has no usable row among {len(table)} of split {config.source.split!r}"
            + table.example()
        )
    media_check.print_missing(config.source)
    spec = prepare(config, table, out, len(adds_to.manifest["shards"]) if adds_to else 0)
    manifest = None if spec.retry or adds_to else read_complete_manifest(out)
    if manifest is None:
        began_s = time.perf_counter()
        earlier = kept.manifest if kept else None
        if adds_to:
            earlier = adds_to.with_addition(config, spec, table.shards, len(table))
        if config.slice != "finish":
            require_media(table.read(0, len(table)), Path(config.source.root))
            warn_of_durations(config, table.read(0, len(table)))
            print_idle_processes(config, len(table), table.shards)
            if not earlier:  # it stays valid while shards are added, and alone records which were
                out.remove("manifest.json")
            numbers = shards_of_slice(config.slice, table.shards) if config.executor == "slice" else range(table.shards)
            with _progress(sum(table.rows_in(number) for number in numbers)) as on_clips:
                EXECUTORS[config.executor](spec, table, numbers, config.processes, on_clips)
            if config.executor == "slice":
                print(
                    f"{out}: slice={config.slice} is complete, {len(numbers)} of {table.shards} shards; "
                    "run slice=finish after the last slice"
                )
                return 0
        manifest = write_manifest(spec, table.shards, len(table), time.perf_counter() - began_s, earlier)
        if adds_to:
            remove_unlisted_shards(out, manifest)
        if config.slice == "finish":
            out.remove_leftovers()  # of killed slices; not earlier, when others may still be running
    print_table(out, manifest)
    if not manifest["written"]:
        raise CommandFailed(f"no clip could be used; {out}/rejected.jsonl lists the reasons")
    return 0


def _validate(config: BuildConfig) -> None:
    decode, source = config.decode, config.source
    for is_wrong, message in (
        (
            not config.out and not config.dry_run,
            "out= is empty: set the folder for the shards, for example out=data/shards/train",
        ),
        (
            decode.mode == "fast" and decode.decoder != "pyav",
            f"decode.decoder={decode.decoder}: decode.mode=fast supports pyav only",
        ),
        (
            bool(config.slice) != (config.executor == "slice"),
            f"executor={config.executor} does not go with slice={config.slice!r}: "
            "set executor=slice slice=I/N, or slice=finish at the end",
        ),
        (
            config.append and config.retry_rejected,
            "append=true does not go with retry_rejected=true: one adds new rows, the other builds rejected ones again",
        ),
        (
            source.kind != "folder" and bool(source.window_s or source.stride_s or source.labels_from_folders),
            f"source.window_s, stride_s and labels_from_folders are for source.kind=folder, not {source.kind}: "
            "its table states segments and labels",
        ),
        (
            0 < source.window_s < decode.min_duration_s or source.window_s > decode.max_duration_s,
            f"source.window_s={source.window_s:g} must be from decode.min_duration_s={decode.min_duration_s:g} to "
            f"decode.max_duration_s={decode.max_duration_s:g}",
        ),
        (
            bool(source.stride_s) and (not source.window_s or source.stride_s < _MIN_STRIDE_S),
            f"source.stride_s={source.stride_s:g} must be {_MIN_STRIDE_S:g} or more, and needs source.window_s",
        ),
        (
            not is_id(config.source.split),
            f"source.split={config.source.split!r} is not a valid shard name: use letters, digits, _ and -",
        ),
        (
            decode.max_duration_s < decode.min_duration_s,
            f"decode.max_duration_s={decode.max_duration_s} must be {decode.min_duration_s} or more, "
            "which is decode.min_duration_s",
        ),
    ):
        if is_wrong:
            raise UsageError(message)
    if config.slice not in ("", "finish"):
        shards_of_slice(config.slice, 0)


@contextlib.contextmanager
def _progress(rows: int) -> Iterator[OnClips]:
    from tqdm import tqdm

    total_rejected = 0
    with tqdm(total=rows, unit="clip", desc="shards", smoothing=0.05) as bar:

        def on_clips(done: int, rejected: int) -> None:
            nonlocal total_rejected
            total_rejected += rejected
            bar.set_postfix(rejected=total_rejected, refresh=False)
            bar.update(done)

        yield on_clips


if __name__ == "__main__":
    sys.exit(run(BuildConfig, __doc__, main))
