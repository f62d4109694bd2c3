"""The end of a build: ledger, statistics and, last of all, the root manifest, put together from the files beside the tars."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from configs.errors import CommandFailed
from pipelines.build.build_spec import FORMAT, BuildJob
from pipelines.storage import Folder, read

_ENTRY_KEYS = ("name", "clips", "size_bytes", "sha256")


def read_complete_manifest(out: Folder) -> dict[str, Any] | None:
    """The root manifest when there is one and all that belongs to it is there: every tar with its size, every index, the ledger, the statistics."""
    try:
        manifest = json.loads(read(out, "manifest.json"))
        sizes = out.sizes()
        same = "stats.json" in sizes and read(out, "rejected.jsonl").count(b"\n") == manifest["rejected"]
        for shard in manifest["shards"] if same else ():
            index = json.loads(read(out, f"{shard['name']}.json"))
            same = same and shard.items() <= index.items() and sizes.get(f"{shard['name']}.tar") == shard["size_bytes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if same else None


def write_manifest(job: BuildJob, shards: int, rows: int, seconds: float) -> dict[str, Any]:
    """Write rejected.jsonl, stats.json and manifest.json.

    Args:
        job: the data set.
        shards: how many it has.
        rows: how many rows its table has.
        seconds: of the run that finishes it.

    Returns:
        The manifest.

    Raises:
        CommandFailed: shards are missing; slices have still to be run.
    """
    entries, missing, reasons, written = [], [], Counter[str](), 0
    with job.out.atomic_open("rejected.jsonl") as ledger:
        sizes = job.out.sizes()
        for name in map(job.name, range(shards)):
            try:
                entry = json.loads(read(job.out, f"{name}.json"))
                whole = entry["recipe"] == job.recipe and sizes.get(f"{name}.tar") == entry["size_bytes"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                missing.append(name)
                continue
            entries.append({key: entry[key] for key in _ENTRY_KEYS})
            written += entry["clips"]
            for rejected in entry["rejected"]:
                reasons[rejected["reason"]] += 1
                ledger.write(json.dumps(rejected).encode() + b"\n")
        if missing:
            raise CommandFailed(
                f"{job.out}: {len(missing)} of {shards} shards are not there yet ({', '.join(missing[:3])}, ...); run their slices first"
            )
    assert written + reasons.total() == rows, "a row was lost"
    size_bytes = sum(entry["size_bytes"] for entry in entries)
    stats = {
        "rows": rows,
        "written": written,
        "rejected": dict(sorted(reasons.items())),
        "size_bytes": size_bytes,
        "build_seconds": round(seconds, 3),
    }
    with job.out.atomic_open("stats.json") as file:
        file.write(json.dumps(stats, indent=1).encode())
    manifest = {
        "format": FORMAT,
        "fingerprint": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
        "split": job.split,
        "rows": rows,
        "written": written,
        "rejected": reasons.total(),
        "shards": entries,
        "settings": json.loads(read(job.out, "build.json"))["settings"],
    }
    with job.out.atomic_open("manifest.json") as file:
        file.write(json.dumps(manifest, indent=1).encode())
    return manifest


def print_table(out: Folder, manifest: dict[str, Any]) -> None:
    """What there is, and what was turned away and why."""
    stats = json.loads(read(out, "stats.json"))
    print(f"{out} is complete")
    print(f"{'rows':<10}{manifest['rows']:>10}")
    print(
        f"{'written':<10}{manifest['written']:>10}   in {len(manifest['shards'])} shards, {stats['size_bytes'] / 1e6:.1f} MB"
    )
    print(
        f"{'rejected':<10}{manifest['rejected']:>10}   {', '.join(f'{reason} {count}' for reason, count in stats['rejected'].items())}".rstrip()
    )
    print(f"{'seconds':<10}{stats['build_seconds']:>10.1f}   in the run that finished it")
