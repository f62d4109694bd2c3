"""Is a data set whole? `python -m pipelines.verify DIR` reads every byte of its shards; exit code 0 when they are what the manifest says, else 1.

Checked: the root manifest and its sums, the ledger, size and SHA-256 of every tar, the index beside it against the tar's own headers, ids used once.
Limits: pictures and sounds are not decoded, the hash stands for them; a shard that someone replaced together with its index and manifest is believed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.command import UsageError, run
from configs.schema import VerifyConfig

_ENTRY_KEYS = ("name", "clips", "size_bytes", "sha256")


def main(_: VerifyConfig, folder: str) -> int:
    """Print one line for each damage, and a table."""
    from tqdm import tqdm

    out = Path(folder)
    if not out.is_dir():
        raise UsageError(f"{folder}: no such folder of shards")
    manifest, damages = _read_manifest(out)
    shards = manifest.get("shards", [])
    seen: set[str] = set()
    for shard in tqdm(shards, unit="shard", desc="verify", disable=None):
        damages += _shard_damages(out, shard, seen)
    if manifest:
        damages += _sum_damages(out, manifest)
    for damage in damages:
        print(damage)
    print(f"{'shards':<10}{len(shards):>10}")
    print(f"{'clips':<10}{len(seen):>10}")
    print(f"{'damages':<10}{len(damages):>10}" + ("   remove the damaged files and run the same pipelines.build again" if damages else ""))
    return 1 if damages else 0


def _read_manifest(out: Path) -> tuple[dict[str, Any], list[str]]:
    file = out / "manifest.json"
    if not file.is_file():
        return {}, [f"{file} is missing: the data set is unfinished; run the same pipelines.build again"]
    try:
        manifest = json.loads(file.read_text())
        whole = all(type(manifest[key]) is int for key in ("rows", "written", "rejected")) and all(key in s for s in manifest["shards"] for key in _ENTRY_KEYS)
    except (ValueError, KeyError, TypeError):
        whole = False
    return (manifest, []) if whole else ({}, [f"{file} is not a manifest of shards"])


def _sum_damages(out: Path, manifest: dict[str, Any]) -> Iterator[str]:
    rows, written, rejected = (manifest[key] for key in ("rows", "written", "rejected"))
    if rows != written + rejected:
        yield f"manifest.json: {rows} rows are not {written} written + {rejected} rejected"
    clips = sum(shard["clips"] for shard in manifest["shards"])
    if clips != written:
        yield f"manifest.json: its shards have {clips} clips, not the {written} written"
    listed = {f"{shard['name']}.tar" for shard in manifest["shards"]}
    for stranger in sorted({tar.name for tar in out.glob("*.tar")} - listed):
        yield f"{stranger} is not in manifest.json"
    yield from _ledger_damages(out, manifest)


def _ledger_damages(out: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """The ledger must be the shards' own ledgers, one after the other."""
    wanted = []
    for shard in manifest["shards"]:
        try:
            wanted += json.loads((out / f"{shard['name']}.json").read_bytes())["rejected"]
        except (OSError, ValueError, KeyError):
            return  # the index's own damage has been told
    try:
        found = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        yield f"rejected.jsonl cannot be read: {error}"
        return
    if len(found) != manifest["rejected"]:
        yield f"rejected.jsonl has {len(found)} lines, manifest.json says {manifest['rejected']}"
    if found != wanted:
        yield "rejected.jsonl is not what the indices of the shards say"


def _shard_damages(out: Path, shard: dict[str, Any], seen: set[str]) -> Iterator[str]:
    name, tar = f"{shard['name']}.tar", out / f"{shard['name']}.tar"
    if not tar.is_file():
        yield f"{name} is missing"
        return
    size_bytes = tar.stat().st_size
    if size_bytes != shard["size_bytes"]:
        yield f"{name} has {size_bytes} bytes, manifest.json says {shard['size_bytes']}"
    else:
        with tar.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                yield f"{name} has another SHA-256 than manifest.json says"
    index = f"{shard['name']}.json"
    try:
        entry = json.loads((out / index).read_bytes())
        members = {f"{clip['id']}.{kind}": tuple(place) for clip in entry["members"] for kind, place in clip["files"].items()}
        ids = [clip["id"] for clip in entry["members"]]
        differing = [key for key in _ENTRY_KEYS if entry[key] != shard[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{index} cannot be read: {type(error).__name__} {error}"
        return
    if differing:
        yield f"{index} and manifest.json differ in {', '.join(differing)}"
    if len(ids) != shard["clips"]:
        yield f"{index} lists {len(ids)} clips, manifest.json says {shard['clips']}"
    for twice in sorted(seen.intersection(ids)) + sorted({i for i in ids if ids.count(i) > 1} if len(set(ids)) < len(ids) else ()):
        yield f"{index}: the id {twice} is used twice"
    seen.update(ids)
    yield from _member_damages(tar, index, members)


def _member_damages(tar: Path, index: str, members: dict[str, tuple[int, int]]) -> Iterator[str]:
    """Compare the index with the headers of the tar."""
    try:
        with tarfile.open(tar) as opened:
            found = {member.name: (member.offset_data, member.size) for member in opened}
    except (tarfile.TarError, OSError, EOFError) as error:
        yield f"{tar.name} is no readable tar: {error}"
        return
    for name in sorted(members.keys() | found.keys()):
        if name not in found:
            yield f"{tar.name} lacks {name}, which {index} lists"
        elif name not in members:
            yield f"{tar.name} has {name}, which {index} does not list"
        elif members[name] != found[name]:
            yield f"{index} puts {name} at {members[name]}, it is at {found[name]} (offset, size)"


if __name__ == "__main__":
    sys.exit(run(VerifyConfig, __doc__, main, positional=("dir",)))
