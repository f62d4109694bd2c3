"""Verify a data set: `python -m pipelines.verify DIR` reads every byte of its shards.

Exit code 0 if they match the manifest, else 1.

DIR is a folder or any fsspec address (s3://bucket/train). Checked: the root manifest with its counts and fingerprint,
rejected.jsonl and stats.json, size and SHA-256 of every tar, each index against the headers of its tar, and that ids
are unique. Files left by killed writers are not damage; in third-party shards (pipelines.stream.index), neither are
unlisted members and ids that several shards use. Limits: frames and audio are not decoded, the hash stands for them; a
shard that was replaced together with its index and manifest passes.
"""

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

import numpy as np

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
_READ_BYTES = 1 << 20
_MAX_REPORTED = 20  # findings of one kind about one file that are printed
_REMOTE_THREADS = 16  # they mostly wait for the network


class _ShardResult(NamedTuple):
    """The result for one shard.

    Attributes:
        name: its name.
        problems: one line for each finding.
        id_hashes: int64 [clips], hashes of the ids.
        reasons: number of rejected rows by reason; None if the index cannot be read.
        rejected_lines: its part of rejected.jsonl.
    """

    name: str
    problems: list[str]
    id_hashes: np.ndarray
    reasons: Counter[str] | None
    rejected_lines: bytes


def main(config: VerifyConfig, folder: str) -> int:
    """Print one line for each finding and a summary table; returns the exit code."""
    from tqdm import tqdm  # not for --help

    out, began_s, problems = open_folder(folder), time.perf_counter(), 0
    if not (out.path.is_dir() if isinstance(out, LocalFolder) else out.sizes()):
        raise UsageError(f"{folder}: no such folder of shards")
    manifest, wrong = read_manifest(out)
    sizes = out.sizes()
    results: list[_ShardResult] = []
    if not manifest and not any(name.endswith((".tar", ".json", ".jsonl")) for name in sizes):
        raise UsageError(f"{folder}: not a folder of shards, it contains neither manifest.json nor a .tar")
    threads = config.threads or (len(os.sched_getaffinity(0)) if isinstance(out, LocalFolder) else _REMOTE_THREADS)
    for problem in [wrong] if wrong else _problems(out, manifest, sizes, threads, results):
        tqdm.write(printable(problem))
        problems += 1
    size_bytes, seconds = sum(sizes.get(f"{shard.name}.tar", 0) for shard in results), time.perf_counter() - began_s
    print(f"{'shards':<10}{len(results):>10}   {size_bytes / 1e6:.1f} MB read in {seconds:.1f} s")
    print(f"{'clips':<10}{sum(len(shard.id_hashes) for shard in results):>10}")
    print(f"{'problems':<10}{problems:>10}" + (f"   {_remedy(manifest)}" if problems else ""))
    return 1 if problems else 0


def _problems(
    out: Folder, manifest: dict[str, Any], sizes: dict[str, int], threads: int, results: list[_ShardResult]
) -> Iterator[str]:
    """One line for each finding, in a deterministic order; fills `results` meanwhile."""
    shards, rows, written, rejected = (manifest[key] for key in ("shards", "rows", "written", "rejected"))
    if rows != written + rejected:
        yield f"manifest.json: rows={rows}, but written + rejected = {written} + {rejected}"
    if (clips := sum(shard["clips"] for shard in shards)) != written:
        yield f"manifest.json: its shards have {clips} clips, but written={written}"
    entries = json.dumps([{key: shard[key] for key in _ENTRY_KEYS} for shard in shards])
    if manifest.get("fingerprint") != hashlib.sha256(entries.encode()).hexdigest():
        yield "manifest.json: its fingerprint does not match its shards"
    listed = {f"{shard['name']}.tar" for shard in shards}
    for name in sorted({name for name in sizes if name.endswith(".tar")} - listed):
        yield f"{name} is not in manifest.json"
    for shard in _check_shards(out, manifest, sizes, threads):
        yield from shard.problems
        results.append(shard._replace(problems=[]))
    if all(shard.reasons is not None for shard in results):  # otherwise an index is damaged, which is reported above
        yield from _rejected_problems(out, manifest, results)
    if manifest.get("adopted") is not True:  # third-party shards may each count from 0
        yield from _limited(_duplicate_ids(out, results), "duplicate ids")


def _remedy(manifest: dict[str, Any]) -> str:
    if manifest.get("adopted") is True:
        return "get the damaged tars again, or index the present ones: python -m pipelines.stream.index DIR"
    return "remove the damaged files and run the same pipelines.build again"


def _limited(problems: Iterator[str], rest: str) -> list[str]:
    """At most _MAX_REPORTED lines, and the number of the others."""
    reported = list(itertools.islice(problems, _MAX_REPORTED))
    more = sum(1 for _ in problems)
    return [*reported, f"{more} more {rest}"] if more else reported


def _rejected_problems(out: Folder, manifest: dict[str, Any], results: Sequence[_ShardResult]) -> Iterator[str]:
    """Compare rejected.jsonl and stats.json with the indices of the shards, which hold the same rows."""
    expected, actual, lines = hashlib.sha256(b"".join(shard.rejected_lines for shard in results)), hashlib.sha256(), 0
    try:
        with out.open("rejected.jsonl") as file:
            while data := file.read(_READ_BYTES):
                actual.update(data)
                lines += data.count(b"\n")
        if lines != manifest["rejected"]:
            yield f"rejected.jsonl has {lines} lines, but manifest.json has rejected={manifest['rejected']}"
        if actual.digest() != expected.digest():
            yield "rejected.jsonl does not match the indices of the shards"
    except OSError as error:
        yield f"rejected.jsonl cannot be read: {error.strerror or error}"
    reasons = sum((shard.reasons for shard in results if shard.reasons), Counter())
    stated = {"rows": manifest["rows"], "written": manifest["written"], "rejected": dict(reasons)}
    try:
        stats = read_json(out, "stats.json")
        if not isinstance(stats, dict) or {key: stats.get(key) for key in stated} != stated:
            yield "stats.json does not match manifest.json and the indices of the shards"
    except (FileNotFoundError, CorruptDataError) as error:
        yield f"stats.json cannot be read: {error}"


def _duplicate_ids(out: Folder, results: Sequence[_ShardResult]) -> Iterator[str]:
    """Compare 8-byte hashes of the ids; only where two are equal, the ids themselves are read again."""
    hashes = np.sort(np.concatenate([np.zeros(0, np.int64), *(shard.id_hashes for shard in results)]))
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    first_shard: dict[str, str] = {}
    for shard in (shard for shard in results if np.isin(shard.id_hashes, repeated).any()):
        ids = np.array(read_index(out, shard.name).ids, dtype=object)
        for clip_id in ids[np.isin(shard.id_hashes, repeated)]:
            if clip_id in first_shard:
                yield f"duplicate id {clip_id}, in {first_shard[clip_id]}.json and {shard.name}.json"
            first_shard[clip_id] = shard.name


def _check_shards(out: Folder, manifest: dict[str, Any], sizes: dict[str, int], threads: int) -> Iterator[_ShardResult]:
    """Check the shards in parallel; yields the results in the order of the manifest."""
    from tqdm import tqdm

    shards = manifest["shards"]
    total = sum(sizes.get(f"{shard['name']}.tar", 0) for shard in shards)
    pool = ThreadPoolExecutor(max(1, min(threads, len(shards))))
    try:
        with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None) as bar:
            for result in pool.map(lambda shard: _check_shard(out, manifest["format"], sizes, shard), shards):
                yield result
                bar.update(sizes.get(f"{result.name}.tar", 0))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_shard(out: Folder, format_version: int, sizes: dict[str, int], shard: dict[str, Any]) -> _ShardResult:
    name, index = shard["name"], None
    problems: list[str] = []
    try:
        index = read_index(out, name, with_fingerprints=format_version >= 2)
        if differing := [key for key in _ENTRY_KEYS if index.entry.get(key) != shard[key]]:
            problems.append(f"{name}.json and manifest.json differ in {', '.join(differing)}")
        if len(index.ids) != shard["clips"]:
            problems.append(f"{name}.json lists {len(index.ids)} clips, but manifest.json has clips={shard['clips']}")
    except (FileNotFoundError, CorruptDataError) as error:
        problems.append(f"{name}.json cannot be read: {error}")
    if f"{name}.tar" in sizes:
        problems += _limited(_tar_problems(out, shard, index), f"problems of {name}")
    else:
        problems.append(f"{name}.tar is missing")
    ids, rejected = (index.ids, index.entry["rejected"]) if index else ([], [])
    return _ShardResult(
        name,
        problems,
        np.fromiter(map(hash, ids), np.int64, len(ids)),
        Counter(row["reason"] for row in rejected) if index else None,
        b"".join(json.dumps(row).encode() + b"\n" for row in rejected),
    )


def _tar_problems(out: Folder, shard: dict[str, Any], index: Index | None) -> Iterator[str]:
    """Read a tar once, for its hash and its headers, and compare these with the index."""
    tar, json_name = f"{shard['name']}.tar", f"{shard['name']}.json"
    unseen, adopted = (dict(index.byte_ranges), index.entry.get("adopted") is True) if index else ({}, False)
    try:
        with out.open(tar) as file:
            hashed = HashingReader(file)
            try:
                for member in tar_members(hashed):
                    key = ".".join(key_and_extension(member.name) or ()) if adopted else member.name
                    listed, actual = unseen.pop(key, None), (member.offset_data, member.size)
                    if not member.isreg() and not (adopted and member.isdir()):
                        yield f"{tar} contains {member.name}, which is not a regular file"
                    elif index and listed is None:
                        if key in index.byte_ranges:
                            yield f"{tar} contains {member.name} twice"
                        elif not adopted:
                            yield f"{tar} contains {member.name}, which {json_name} does not list"
                    elif index and listed != actual:
                        yield f"{json_name} lists {member.name} at {listed}, but it is at {actual} (offset, size)"
                yield from (f"{tar} lacks {missing}, which {json_name} lists" for missing in unseen)
            except CorruptDataError as error:
                yield f"{tar} is not a readable tar: {error}"
            while hashed.read(_READ_BYTES):
                pass
    except OSError as error:
        yield f"{tar} cannot be read: {type(error).__name__} {error}"
        return
    if hashed.size_bytes != shard["size_bytes"]:
        yield f"{tar} has {hashed.size_bytes} bytes, but manifest.json has size_bytes={shard['size_bytes']}"
    elif hashed.digest.hexdigest() != shard["sha256"]:
        yield f"the SHA-256 of {tar} does not match manifest.json"


if __name__ == "__main__":
    sys.exit(run(VerifyConfig, __doc__, main, positional=("dir",)))
