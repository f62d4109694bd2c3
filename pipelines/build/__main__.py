"""Build one split of a data set into shards: `python -m pipelines.build config=configs/build/toy.yaml source.root=... out=...`.

Writes into `out`: rows.jsonl (the rows), build.json (what is being built), SPLIT-000000.tar and .json for each shard, rejected.jsonl, stats.json, and last
of all manifest.json: with it the data set is complete. Run the same command again after an interruption; whole shards are kept and the result is the
same to the byte. The data set does not depend on where `source.root` lies. Limits: a local folder; changed media are not noticed, changed tables are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.command import UsageError, run
from configs.load import changed_keys
from configs.schema import BuildConfig
from pipelines.build.executors import build_locally
from pipelines.build.rows import RowTable, write_rows
from pipelines.build.shards import BuildJob
from pipelines.manifest import is_id
from pipelines.sources import audioset, folder, places_audio
from pipelines.whole_file import only_writer, temporary_path, whole_file

FORMAT = 1
SOURCES = {"audioset": audioset.rows, "places_audio": places_audio.rows, "folder": folder.rows}
EXECUTORS = {"local": build_locally}
_ELSEWHERE = ("out", "executor", "processes")  # settings that do not change the data set; nor does source.root


def main(config: BuildConfig) -> int:
    """Build what is missing of the data set, and print how much there is."""
    from tqdm import tqdm

    _check(config)
    rows = tqdm(SOURCES[config.source.kind](config.source), desc="rows", unit="row", delay=1)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        job = _prepare(config, write_rows(rows, temporary_path(out / "rows.jsonl"), config.seed))
        manifest = _complete(out)
        if manifest is None:
            (out / "manifest.json").unlink(missing_ok=True)
            began_s = time.perf_counter()
            with _progress(len(job.rows)) as on_clips:
                EXECUTORS[config.executor](job, config.processes, on_clips)
            manifest = _finish(job, time.perf_counter() - began_s)
    _print_summary(out, manifest)
    if not manifest["written"]:
        print(f"no clip could be used; {out / 'rejected.jsonl'} says why", file=sys.stderr)
    return 0 if manifest["written"] else 1


def _check(config: BuildConfig) -> None:
    decode = config.decode
    if not config.out:
        raise UsageError("out= is empty: name the folder the shards are written to, for example out=data/shards/train")
    for key, value, allowed in (
        ("source.kind", config.source.kind, SOURCES),
        ("executor", config.executor, EXECUTORS),
        ("decode.audio_format", decode.audio_format, ("flac", "wav")),
    ):
        if value not in allowed:
            raise UsageError(f"{key}={value!r} is none of {', '.join(allowed)}")
    if not is_id(config.source.split):
        raise UsageError(f"source.split={config.source.split!r} names the shards: give letters, digits, _ and -")
    if decode.max_duration_s < decode.min_duration_s:
        raise UsageError(f"decode.max_duration_s={decode.max_duration_s} must be {decode.min_duration_s} or more, which is decode.min_duration_s")


def _prepare(config: BuildConfig, rows: RowTable) -> BuildJob:
    """Take the rows over, and note in build.json what is built; or refuse a folder in which something else is."""
    out = Path(config.out)
    try:
        if not rows.acceptable:
            first = next(rows.read(0, 1), None)
            why = f", for example {first.id!r}: {first.reason}, {first.detail}" if first else ""
            raise UsageError(f"source.root={config.source.root!r} has no usable row among {len(rows)} of split {config.source.split!r}{why}")
        settings = _settings(config)
        built = {"format": FORMAT, "rows_sha256": rows.sha256, "settings": settings}
        text = json.dumps(built, indent=1, sort_keys=True)
        _refuse_another(out, built)
    except UsageError:
        rows.path.unlink()
        raise
    rows = dataclasses.replace(rows, path=rows.path.replace(out / "rows.jsonl"))
    with whole_file(out / "build.json") as file:
        file.write(text.encode())
    recipe = hashlib.sha256(text.encode()).hexdigest()
    root = Path(config.source.root).absolute()
    return BuildJob(rows, root, out, config.source.split, config.clips_per_shard, config.decode, recipe)


def _settings(config: BuildConfig) -> dict[str, Any]:
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in _ELSEWHERE}
    del settings["source"]["root"]
    return settings


def _refuse_another(out: Path, built: dict[str, Any]) -> None:
    try:
        earlier = json.loads((out / "build.json").read_text())
        differing = changed_keys(earlier["settings"], built["settings"])
    except FileNotFoundError:
        if (out / "manifest.json").exists():
            raise UsageError(f"out={out} holds a manifest.json that this command did not write; give another folder") from None
        return
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{out / 'build.json'} is not what this command writes; give another folder, or remove {out} first") from None
    if earlier["format"] != built["format"]:
        differing.append(f"format: {earlier['format']} -> {built['format']}")
    if not differing and earlier["rows_sha256"] != built["rows_sha256"]:
        differing.append("the rows of the source's table")
    if differing:
        raise UsageError(f"out={out} holds a data set built otherwise ({'; '.join(differing)}); give another folder, or remove {out} first")


def _complete(out: Path) -> dict[str, Any] | None:
    """The root manifest when there is one and all that belongs to it is there: every tar with its size, every index, the ledger, the statistics."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        same = (out / "stats.json").is_file() and (out / "rejected.jsonl").read_bytes().count(b"\n") == manifest["rejected"]
        for shard in manifest["shards"] if same else ():
            index = json.loads((out / f"{shard['name']}.json").read_bytes())
            same = same and shard.items() <= index.items() and (out / f"{shard['name']}.tar").stat().st_size == shard["size_bytes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if same else None


@contextlib.contextmanager
def _progress(rows: int) -> Iterator[Any]:
    from tqdm import tqdm

    rejects = 0
    with tqdm(total=rows, unit="clip", desc="shards", smoothing=0.05) as bar:

        def on_clips(done: int, rejected: int) -> None:
            nonlocal rejects
            rejects += rejected
            bar.set_postfix(rejected=rejects, refresh=False)
            bar.update(done)

        yield on_clips


def _finish(job: BuildJob, seconds: float) -> dict[str, Any]:
    """Write ledger, statistics and, last, the root manifest, from the files beside the tars."""
    shards, reasons, written = [], Counter[str](), 0
    with whole_file(job.out / "rejected.jsonl") as ledger:
        for number in range(job.shards):
            entry = json.loads((job.out / f"{job.name(number)}.json").read_bytes())
            shards.append({key: entry[key] for key in ("name", "clips", "size_bytes", "sha256")})
            written += entry["clips"]
            for rejected in entry["rejected"]:
                reasons[rejected["reason"]] += 1
                ledger.write(json.dumps(rejected).encode() + b"\n")
    assert written + reasons.total() == len(job.rows), "a row was lost"
    stats = {
        "rows": len(job.rows),
        "written": written,
        "rejected": dict(sorted(reasons.items())),
        "size_bytes": sum(shard["size_bytes"] for shard in shards),
        "seconds_of_last_run": round(seconds, 3),
    }
    with whole_file(job.out / "stats.json") as file:
        file.write(json.dumps(stats, indent=1).encode())
    manifest = {
        "format": FORMAT,
        "fingerprint": hashlib.sha256(json.dumps(shards).encode()).hexdigest(),
        "split": job.split,
        "rows": len(job.rows),
        "written": written,
        "rejected": reasons.total(),
        "shards": shards,
        "settings": json.loads((job.out / "build.json").read_text())["settings"],
    }
    with whole_file(job.out / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1).encode())
    return manifest


def _print_summary(out: Path, manifest: dict[str, Any]) -> None:
    stats = json.loads((out / "stats.json").read_text())
    megabytes = sum(shard["size_bytes"] for shard in manifest["shards"]) / 1e6
    seconds = stats["seconds_of_last_run"]
    print(f"{out} is complete")
    print(f"{'rows':<10}{manifest['rows']:>10}")
    print(f"{'written':<10}{manifest['written']:>10}   in {len(manifest['shards'])} shards, {megabytes:.1f} MB")
    print(f"{'rejected':<10}{manifest['rejected']:>10}   {', '.join(f'{reason} {count}' for reason, count in stats['rejected'].items())}".rstrip())
    print(f"{'seconds':<10}{seconds:>10.1f}   in the run that finished it")


if __name__ == "__main__":
    sys.exit(run(BuildConfig, __doc__, main))
