"""Index third-party WebDataset shards (img2dataset, video2dataset, `wds.ShardWriter`, ...) for `DatasetIndex`.

The tars are not changed, no file of others is overwritten, and nothing is written unless every tar passes
(foreign_tar.py). Limits: local folders; every run reads all tars again.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from configs.errors import CommandFailed, UsageError
from pipelines.modalities.frames import Frames
from pipelines.modalities.waveform import Waveform
from pipelines.shard_format import is_shard_name, printable
from pipelines.storage import LocalFolder, open_folder, read, write
from pipelines.stream.foreign_tar import Clips, index_tar, starts_with

_MEDIA = {*Frames.file_types, *Waveform.file_types}
_MARK = b'{"adopted": true, '  # first bytes of every JSON file that this command writes
_MAX_EXTENSIONS = 10_000  # more of them are keys that contain dots
_MAX_MEMBER_BYTES = (1 << 32) - 1  # what the member index can store
_USE_LINKS = "make a folder of links to the tars and index that"


def index_foreign_shards(address: str, max_member_mb: float) -> int:
    """Write NAME.json next to each tar of a local folder, then stats.json, rejected.jsonl and manifest.json.

    Args:
        address: the folder.
        max_member_mb: a larger member of an indexed type rejects its tar.

    Returns:
        The exit code.

    Raises:
        UsageError: the folder has no tars, is a data set of pipelines.build, or has files of others with the same
            names.
        CommandFailed: a tar is damaged or hostile, or the folder cannot be written; nothing is written.
    """
    folder = open_folder(address)
    if not isinstance(folder, LocalFolder):
        raise UsageError(
            f"{address}: not a local folder; index the shards where they are written, then upload the new files too"
        )
    sizes = folder.sizes("*.tar") if folder.path.is_dir() else {}
    if not sizes:
        raise UsageError(f"{address}: no such folder, or no .tar file in it")
    names = [name.removesuffix(".tar") for name in sorted(sizes)]
    with folder.folder_lock():
        _check_file_names(folder, names)
        try:
            scratch_folder = folder.scratch()
        except OSError as error:
            raise CommandFailed(f"{folder} cannot be written ({error.strerror}): {_USE_LINKS}") from None
        with scratch_folder as path:  # for the files that are written before all tars have passed
            scratch = LocalFolder(path)
            entries, members, skipped = _index_all(
                folder, names, sizes, scratch, min(max_member_mb * 1e6, _MAX_MEMBER_BYTES)
            )
            if not _MEDIA & members.keys():
                raise CommandFailed(
                    f"{address}: its tars have no images and no audio ({', '.join(sorted(_MEDIA))}), only "
                    f"{_format_counts(members + skipped) or 'nothing'}; decode whole videos first: unpack them, then "
                    "python -m pipelines.build source.kind=folder"
                )
            clips, size_bytes = (sum(entry[key] for entry in entries) for key in ("clips", "size_bytes"))
            _write_summary(scratch, entries, clips, size_bytes)
            for name in ("rejected.jsonl", "stats.json", *(f"{name}.json" for name in names)):
                (scratch.path / name).replace(folder.path / name)
            write(folder, "manifest.json", read(scratch, "manifest.json"))
    print(f"{'clips':<10}{clips:>10}   in {len(entries)} shards, {size_bytes / 1e6:.1f} MB")
    print(f"{'members':<10}{members.total():>10}   {_format_counts(members)}")
    print(f"{'skipped':<10}{skipped.total():>10}   {_format_counts(skipped)}".rstrip())
    return 0


def _check_file_names(folder: LocalFolder, names: Sequence[str]) -> None:
    """Check that no file of others has a name that this command writes."""
    if folder.sizes("build.json"):
        raise UsageError(
            f"{folder} is a data set of pipelines.build, which is indexed already; "
            f"check it with python -m pipelines.verify {folder}"
        )
    for name in names:
        if not is_shard_name(name) or name in ("manifest", "stats"):
            raise UsageError(
                f"{folder}/{printable(name)}.tar: rename or remove it; names of shards consist of A-Z a-z 0-9 _ - . "
                "and are not manifest or stats"
            )
    existing = folder.sizes()
    written = ("manifest.json", "stats.json", *(f"{name}.json" for name in names))
    others = [name for name in written if name in existing and not starts_with(folder, name, _MARK)]
    if existing.get("rejected.jsonl"):  # this command writes an empty one
        others.append("rejected.jsonl")
    if others:
        raise UsageError(f"{folder}/{others[0]} was not written by this command: move it away, or {_USE_LINKS}")


def _index_all(
    folder: LocalFolder, names: Sequence[str], sizes: Mapping[str, int], scratch: LocalFolder, max_bytes: float
) -> tuple[list[dict[str, Any]], Counter[str], Counter[str]]:
    """Index the tars, several at once: manifest entries, members by type, skipped members."""
    from tqdm import tqdm

    def index(name: str) -> tuple[dict[str, Any], Clips, Counter[str]]:
        entry, clips, skipped = index_tar(folder, name, max_bytes)
        members = [{"id": key, "files": files} for key, files in clips.items()]
        _write_json(scratch, f"{name}.json", entry | {"members": members, "rejected": [], "media_of_rejected": {}})
        return entry, clips, skipped

    entries, extensions, members, skipped = [], set[str](), Counter[str](), Counter[str]()
    pool = ThreadPoolExecutor(
        max(1, min(len(os.sched_getaffinity(0)), len(names)))
    )  # reading and hashing release the GIL
    try:
        with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="index", disable=None) as bar:
            for entry, clips, skipped_in_tar in pool.map(index, names):
                entries.append(entry)
                counts = Counter(extension for files in clips.values() for extension in files)
                for extension, count in counts.items():
                    members[extension.rpartition(".")[2]] += count
                extensions |= counts.keys()
                skipped += skipped_in_tar
                if len(extensions) > _MAX_EXTENSIONS:
                    raise CommandFailed(
                        f"{folder}: more than {_MAX_EXTENSIONS} extensions, such as .{printable(next(iter(counts)))}; "
                        "a key ends at the first dot of a name, so it cannot contain one"
                    )
                bar.update(entry["size_bytes"])
    finally:
        pool.shutdown(cancel_futures=True)
    return entries, members, skipped


def _write_summary(folder: LocalFolder, entries: Sequence[dict[str, Any]], clips: int, size_bytes: int) -> None:
    write(folder, "rejected.jsonl", b"")
    _write_json(folder, "stats.json", {"rows": clips, "written": clips, "rejected": {}, "size_bytes": size_bytes})
    manifest = {
        "format": 2,
        "fingerprint": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
        "rows": clips,
        "written": clips,
        "rejected": 0,
        "shards": entries,
    }
    _write_json(folder, "manifest.json", manifest)


def _write_json(folder: LocalFolder, name: str, content: dict[str, Any]) -> None:
    data = json.dumps({"adopted": True} | content).encode()
    assert data.startswith(_MARK)
    write(folder, name, data)


def _format_counts(counts: Counter[str]) -> str:
    return printable(", ".join(f"{count} {kind}" for kind, count in counts.most_common(8)))
