"""Is a data set whole? `python -m pipelines.verify DIR` reads every byte of its shards; exit code 0 when they are what the manifest says, else 1.

DIR is a folder or any address of fsspec (s3://bucket/train). Checked: the root manifest, its sums and fingerprint, ledger and statistics, size and
SHA-256 of every tar, the index beside it against the tar's own headers, ids used once. What killed writers left behind is no damage, nor, in shards of
others (pipelines.stream.index), members that are not listed and ids used again in another shard.
Limits: pictures and sounds are not decoded, the hash stands for them; a shard that someone replaced together with its index and manifest is believed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from configs.cli import run
from configs.errors import UsageError
from configs.schema import VerifyConfig
from pipelines.shard_format import (
    CorruptDataError,
    HashingReader,
    Index,
    key_and_extension,
    printable,
    read_index,
    read_json,
    read_manifest,
    tar_members,
)
from pipelines.storage import Folder, LocalFolder, open_folder

_ENTRY_KEYS = ("name", "clips", "size_bytes", "sha256")
_PIECE_BYTES = 1 << 20
_MAX_REPORTED = 20  # damages of one kind in one place that are written out
_REMOTE_THREADS = 16  # they wait for the network most of the time


class _Checked(NamedTuple):
    """What is kept of a shard that was read."""

    name: str
    damages: list[str]
    id_hashes: Any  # int64 [clips]
    reasons: Counter[str] | None  # of rejected rows; None: the index cannot be read
    ledger: bytes  # its part of rejected.jsonl


def main(config: VerifyConfig, folder: str) -> int:
    """Print one line for each damage, and a table."""
    from tqdm import tqdm

    out, began_s, damages = open_folder(folder), time.perf_counter(), 0
    if not (out.path.is_dir() if isinstance(out, LocalFolder) else out.sizes()):
        raise UsageError(f"{folder}: no such folder of shards")
    manifest, wrong = read_manifest(out)
    sizes, checked = out.sizes(), []
    if not manifest and not any(name.endswith((".tar", ".json", ".jsonl")) for name in sizes):
        raise UsageError(f"{folder}: no folder of shards, there is neither manifest.json nor a .tar in it")
    threads = config.threads or (len(os.sched_getaffinity(0)) if isinstance(out, LocalFolder) else _REMOTE_THREADS)
    for damage in [wrong] if wrong else _damages(out, manifest, sizes, threads, checked):
        tqdm.write(printable(damage))
        damages += 1
    size_bytes, seconds = sum(sizes.get(f"{shard.name}.tar", 0) for shard in checked), time.perf_counter() - began_s
    print(f"{'shards':<10}{len(checked):>10}   {size_bytes / 1e6:.1f} MB read in {seconds:.1f} s")
    print(f"{'clips':<10}{sum(len(shard.id_hashes) for shard in checked):>10}")
    print(f"{'damages':<10}{damages:>10}" + (f"   {_remedy(manifest)}" if damages else ""))
    return 1 if damages else 0


def _damages(
    out: Folder, manifest: dict[str, Any], sizes: dict[str, int], threads: int, checked: list[_Checked]
) -> Iterator[str]:
    """One line for each damage, in an order that is always the same; `checked` is filled meanwhile."""
    shards, rows, written, rejected = (manifest[key] for key in ("shards", "rows", "written", "rejected"))
    if rows != written + rejected:
        yield f"manifest.json: {rows} rows are not {written} written + {rejected} rejected"
    if (clips := sum(shard["clips"] for shard in shards)) != written:
        yield f"manifest.json: its shards have {clips} clips, not the {written} written"
    if (
        manifest.get("fingerprint")
        != hashlib.sha256(json.dumps([{key: s[key] for key in _ENTRY_KEYS} for s in shards]).encode()).hexdigest()
    ):
        yield "manifest.json: its fingerprint is not that of its shards"
    for stranger in sorted(
        {name for name in sizes if name.endswith(".tar")} - {f"{shard['name']}.tar" for shard in shards}
    ):
        yield f"{stranger} is not in manifest.json"
    for shard in _check_shards(out, manifest, sizes, threads):
        yield from shard.damages
        checked.append(shard._replace(damages=[]))
    if all(shard.reasons is not None for shard in checked):  # else the index's own damage has been told
        yield from _ledger_damages(out, manifest, checked)
    if manifest.get("adopted") is not True:  # shards of others may count from 0 each
        yield from _capped(_used_twice(out, checked), "ids are used twice")


def _remedy(manifest: dict[str, Any]) -> str:
    if manifest.get("adopted") is True:
        return "get the damaged tars again, or take what is there: python -m pipelines.stream.index DIR"
    return "remove the damaged files and run the same pipelines.build again"


def _capped(damages: Iterator[str], rest: str) -> list[str]:
    told = list(itertools.islice(damages, _MAX_REPORTED))
    more = sum(1 for _ in damages)
    return [*told, f"{more} more {rest}"] if more else told


def _ledger_damages(out: Folder, manifest: dict[str, Any], checked: list[_Checked]) -> Iterator[str]:
    """The ledger must be the shards' own ledgers, one after the other, and the statistics what they add up to."""
    wanted, found, lines = hashlib.sha256(b"".join(shard.ledger for shard in checked)), hashlib.sha256(), 0
    try:
        with out.open("rejected.jsonl") as file:
            while data := file.read(1 << 20):
                found.update(data)
                lines += data.count(b"\n")
        if lines != manifest["rejected"]:
            yield f"rejected.jsonl has {lines} lines, manifest.json says {manifest['rejected']}"
        if found.digest() != wanted.digest():
            yield "rejected.jsonl is not what the indices of the shards say"
    except OSError as error:
        yield f"rejected.jsonl cannot be read: {error.strerror or error}"
    reasons = sum((shard.reasons for shard in checked if shard.reasons), Counter())
    stated = {"rows": manifest["rows"], "written": manifest["written"], "rejected": dict(reasons)}
    try:
        stats = read_json(out, "stats.json")
        if not isinstance(stats, dict) or {key: stats.get(key) for key in stated} != stated:
            yield "stats.json is not what manifest.json and the indices of the shards say"
    except (FileNotFoundError, CorruptDataError) as error:
        yield f"stats.json cannot be read: {error}"


def _used_twice(out: Folder, checked: Sequence[_Checked]) -> Iterator[str]:
    """Ids are told apart by 8 bytes of hash each; only where two hashes are equal, the ids are looked at again."""
    import numpy as np

    hashes = np.sort(np.concatenate([np.zeros(0, np.int64), *(shard.id_hashes for shard in checked)]))
    repeated, seen = hashes[1:][hashes[1:] == hashes[:-1]], {}
    for shard in (shard for shard in checked if np.isin(shard.id_hashes, repeated).any()):
        ids = np.array(read_index(out, shard.name).ids, dtype=object)
        for clip_id in ids[np.isin(shard.id_hashes, repeated)]:
            if clip_id in seen:
                yield f"the id {clip_id} is used twice, in {seen[clip_id]}.json and {shard.name}.json"
            seen[clip_id] = shard.name


def _check_shards(out: Folder, manifest: dict[str, Any], sizes: dict[str, int], threads: int) -> Iterator[_Checked]:
    """Read the shards, several at once; they come in their order."""
    from tqdm import tqdm

    shards = manifest["shards"]
    pool = ThreadPoolExecutor(max(1, min(threads, len(shards))))
    try:
        with tqdm(
            total=sum(sizes.get(f"{shard['name']}.tar", 0) for shard in shards),
            unit="B",
            unit_scale=True,
            desc="verify",
            disable=None,
        ) as bar:
            for checked in pool.map(lambda shard: _check_shard(out, manifest["format"], sizes, shard), shards):
                yield checked
                bar.update(sizes.get(f"{checked.name}.tar", 0))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_shard(out: Folder, form: int, sizes: dict[str, int], shard: dict[str, Any]) -> _Checked:
    import numpy as np

    name, damages, index = shard["name"], [], None
    try:
        index = read_index(out, name, with_states=form >= 2)
        if differing := [key for key in _ENTRY_KEYS if index.entry.get(key) != shard[key]]:
            damages.append(f"{name}.json and manifest.json differ in {', '.join(differing)}")
        if len(index.ids) != shard["clips"]:
            damages.append(f"{name}.json lists {len(index.ids)} clips, manifest.json says {shard['clips']}")
    except (FileNotFoundError, CorruptDataError) as error:
        damages.append(f"{name}.json cannot be read: {error}")
    damages += (
        _capped(_tar_damages(out, shard, index), f"damages of {name}")
        if f"{name}.tar" in sizes
        else [f"{name}.tar is missing"]
    )
    ids, rejected = (index.ids, index.entry["rejected"]) if index else ([], [])
    ledger = b"".join(json.dumps(row).encode() + b"\n" for row in rejected)
    return _Checked(
        name,
        damages,
        np.fromiter(map(hash, ids), np.int64, len(ids)),
        Counter(row["reason"] for row in rejected) if index else None,
        ledger,
    )


def _tar_damages(out: Folder, shard: dict[str, Any], index: Index | None) -> Iterator[str]:
    """Read a tar once, for its hash and its headers, and compare these with the index."""
    name, listed = f"{shard['name']}.tar", f"{shard['name']}.json"
    places, adopted = (dict(index.places), index.entry.get("adopted") is True) if index else ({}, False)
    try:
        with out.open(name) as file:
            hashed = HashingReader(file)
            try:
                for member in tar_members(hashed):
                    key = ".".join(key_and_extension(member.name) or ()) if adopted else member.name
                    place, found = places.pop(key, None), (member.offset_data, member.size)
                    if not member.isreg() and not (adopted and member.isdir()):
                        yield f"{name} has {member.name}, which is no plain file"
                    elif index and place is None:
                        if key in index.places or not adopted:
                            yield f"{name} has {member.name}{' twice' if key in index.places else f', which {listed} does not list'}"
                    elif index and place != found:
                        yield f"{listed} puts {member.name} at {place}, it is at {found} (offset, size)"
                yield from (f"{name} lacks {lost}, which {listed} lists" for lost in places)
            except CorruptDataError as error:
                yield f"{name} is no readable tar: {error}"
            while hashed.read(_PIECE_BYTES):
                pass
    except OSError as error:
        yield f"{name} cannot be read: {type(error).__name__} {error}"
        return
    if hashed.size_bytes != shard["size_bytes"]:
        yield f"{name} has {hashed.size_bytes} bytes, manifest.json says {shard['size_bytes']}"
    elif hashed.digest.hexdigest() != shard["sha256"]:
        yield f"{name} has another SHA-256 than manifest.json says"


if __name__ == "__main__":
    sys.exit(run(VerifyConfig, __doc__, main, positional=("dir",)))
