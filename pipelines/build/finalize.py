"""Completes a data set: writes rejected.jsonl, stats.json and the root manifest from the indices of its shards."""

import hashlib
import json
from collections import Counter
from typing import Any

from configs.errors import CommandFailed
from pipelines.build.build_spec import FORMAT, BuildSpec
from pipelines.storage import Folder, read, write

_ENTRY_KEYS = ("name", "clips", "size_bytes", "sha256")


def read_complete_manifest(out: Folder) -> dict[str, Any] | None:
    """The root manifest; None if a tar, an index, rejected.jsonl or stats.json is missing or does not match it."""
    try:
        manifest = json.loads(read(out, "manifest.json"))
        sizes = out.sizes()
        is_complete = (
            "stats.json" in sizes
            and read(out, "rejected.jsonl").count(b"\n") == manifest["rejected"]
            and all(
                sizes.get(f"{shard['name']}.tar") == shard["size_bytes"]
                and shard.items() <= json.loads(read(out, f"{shard['name']}.json")).items()
                for shard in manifest["shards"]
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if is_complete else None


def write_manifest(
    spec: BuildSpec, shards: int, rows: int, seconds: float, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write rejected.jsonl, stats.json and manifest.json.

    Args:
        spec: the data set.
        shards: number of shards of this build.
        rows: number of rows in its table.
        seconds: wall time of this run.
        earlier: manifest of a data set of which this build is a part; its other shards are kept.

    Returns:
        The manifest.

    Raises:
        CommandFailed: shards are missing, because some slices have not run; or shards of another part are damaged.
    """
    built = {spec.name(number) for number in range(shards)}
    kept = {shard["name"]: shard for shard in (earlier or {}).get("shards", ()) if shard["name"] not in built}
    entries, missing, reasons, written, cut = [], [], Counter[str](), 0, 0
    with spec.out.atomic_open("rejected.jsonl") as rejected_file:
        sizes = spec.out.sizes()
        for name in sorted([*kept, *built]):
            try:
                entry = json.loads(read(spec.out, f"{name}.json"))
                same = kept[name].items() <= entry.items() if name in kept else entry["recipe"] == spec.build_hash
                same = same and sizes.get(f"{name}.tar") == entry["size_bytes"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                same = False
            if not same:
                missing.append(name)
                continue
            entries.append({key: entry[key] for key in _ENTRY_KEYS})
            written += entry["clips"]
            cut += entry.get("cut", 0)
            rows += entry["clips"] + len(entry["rejected"]) if name in kept else 0
            reasons.update(rejected["reason"] for rejected in entry["rejected"])
            rejected_file.writelines(json.dumps(rejected).encode() + b"\n" for rejected in entry["rejected"])
        if missing:
            first = "their slices" if built.issuperset(missing) else "the command that added them, with append=true,"
            raise CommandFailed(
                f"{spec.out}: {len(missing)} of {len(kept) + shards} shards are missing "
                f"({', '.join(missing[:3])}, ...); run {first} first"
            )
    assert written + reasons.total() == rows, "a row was lost"
    stats = {
        "rows": rows,
        "written": written,
        "rejected": dict(sorted(reasons.items())),
        "size_bytes": sum(entry["size_bytes"] for entry in entries),
        "build_seconds": round(seconds, 3),
    }
    if cut:
        stats["cut"] = cut
    write(spec.out, "stats.json", json.dumps(stats, indent=1).encode())
    manifest = {
        "format": FORMAT,
        "fingerprint": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
        "split": spec.split,
        "rows": rows,
        "written": written,
        "rejected": reasons.total(),
        "shards": entries,
        "settings": json.loads(read(spec.out, "build.json"))["settings"],
    }
    if earlier:
        manifest["appended"] = earlier["appended"]
    write(spec.out, "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def print_table(out: Folder, manifest: dict[str, Any]) -> None:
    """Print the size of a data set, and how many rows were rejected by reason."""
    stats = json.loads(read(out, "stats.json"))
    reasons = ", ".join(f"{reason} {count}" for reason, count in stats["rejected"].items())
    size = f"in {len(manifest['shards'])} shards, {stats['size_bytes'] / 1e6:.1f} MB"
    print(f"{out} is complete")
    print(f"{'rows':<10}{manifest['rows']:>10}")
    print(f"{'written':<10}{manifest['written']:>10}   {size}")
    if stats.get("cut"):
        max_s = manifest["settings"]["decode"]["max_duration_s"]
        print(f"{'cut':<10}{stats['cut']:>10}   of them to decode.max_duration_s={max_s:g} s, because they are longer")
    print(f"{'rejected':<10}{manifest['rejected']:>10}   {reasons}".rstrip())
    if "build_seconds" in stats:  # data sets of version 0.1 store it under another name
        print(f"{'seconds':<10}{stats['build_seconds']:>10.1f}   in the run that completed it")
