"""The ledger of a download: what became of each clip and file, as JSON lines that survive a kill at any moment.

    ROOT/download.jsonl              or download-I-of-N.jsonl with slice=I/N
    {"id", "status", "detail", "size_bytes", "sha256", "time"}

A line is appended and synced when its clip is final; the last line of an id counts. The id of a plain file is
`file:PATH`, that of an unpacked archive `unpacked:PATH`.
"""

import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from configs.atomic_write import atomic_open
from configs.errors import CommandFailed

# done: the file is complete. gone: the video does not exist anymore. not_here: it exists, but not for this country,
# account or age. retry: a failure that may pass.
STATUSES = ("done", "gone", "not_here", "retry")
_NAME = re.compile(r"download(-\d+-of-\d+)?\.jsonl")


class Entry(NamedTuple):
    """What the newest line of an id states.

    Attributes:
        status: one of STATUSES.
        size_bytes: size of the finished file; 0 if there is none.
        sha256: SHA-256 of a plain file; "" for clips, to save memory: the line in the file has it.
        time: when the line was written, UTC.
    """

    status: str
    size_bytes: int
    sha256: str
    time: str


def ledger_path(root: Path, part: int = 0, parts: int = 1) -> Path:
    """The ledger of a whole download, or of part `part` of `parts`, counted from 0."""
    return root / ("download.jsonl" if parts == 1 else f"download-{part}-of-{parts}.jsonl")


def read_ledger(root: Path) -> dict[str, Entry]:
    """The entries of all ledgers of a folder by id; of several entries of an id, a `done` one or else the newest."""
    merged: dict[str, Entry] = {}
    for path in _ledgers(root):
        newest = {row_id: entry for row_id, entry, _ in _lines(path)}
        for row_id, entry in newest.items():
            known = merged.get(row_id)
            if known is None or _rank(entry) >= _rank(known):
                merged[row_id] = entry
    return merged


def has_ledger(root: Path) -> bool:
    """Whether a download has been run in a folder."""
    return bool(_ledgers(root))


def read_missing(root: Path) -> dict[str, str]:
    """The status of each clip that is not done, by id: what a build says about missing files."""
    missing: dict[str, str] = {}
    for path in _ledgers(root):
        for row_id, entry, _ in _lines(path):
            if entry.status == "done":
                missing.pop(row_id, None)
            else:
                missing[row_id] = entry.status
    return missing


def _ledgers(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("download*.jsonl")) if _NAME.fullmatch(path.name)]


def _rank(entry: Entry) -> tuple[bool, str]:
    return entry.status == "done", entry.time


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Ledger:
    """The ledger of this process, opened for appending; a context manager.

    At the start and at the end, lines that newer ones replaced are removed, and at the start a last line that a killed
    process did not finish.

    Args:
        path: the file, created if it does not exist.

    Attributes:
        entries: the entries of all ledgers of the folder by id, as of `read_ledger`; `add` updates them.

    Raises:
        CommandFailed: a line in the middle of the file is not an entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            self._compact()
        self.entries = read_ledger(path.parent)
        self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._compact()

    def add(self, row_id: str, status: str, detail: str = "", size_bytes: int = 0, sha256: str = "") -> None:
        """Append an entry; it is on disk when the method returns."""
        assert status in STATUSES, status
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "id": row_id,
            "status": status,
            "detail": detail,
            "size_bytes": size_bytes,
            "sha256": sha256,
            "time": time,
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries[row_id] = _entry(line)

    def _compact(self) -> None:
        """Keep the newest line of each id, in place of a file with older ones or with an unfinished line."""
        newest: dict[str, int] = {}
        lines = size_bytes = 0
        for row_id, _, end in _lines(self._path):
            newest[row_id] = lines
            lines, size_bytes = lines + 1, end
        if len(newest) == lines and size_bytes == self._path.stat().st_size:
            return
        with self._path.open("rb") as old, atomic_open(self._path) as new:
            for number in range(lines):
                line = old.readline()
                if newest[json.loads(line)["id"]] == number:
                    new.write(line)


def _lines(path: Path) -> Iterator[tuple[str, Entry, int]]:
    """Id, entry and end offset of each complete line; an unfinished last line is skipped."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                fields = json.loads(line)
                row_id, entry = fields["id"], _entry(fields)
            except (ValueError, KeyError, TypeError):
                raise CommandFailed(
                    f"{path}: line {number} is not an entry of a ledger; remove that line, then run the command again"
                ) from None
            yield row_id, entry, end


def _entry(fields: dict[str, Any]) -> Entry:
    status = fields["status"]
    if status not in STATUSES:
        raise ValueError(status)
    sha256 = fields["sha256"] if ":" in fields["id"] else ""
    return Entry(STATUSES[STATUSES.index(status)], int(fields["size_bytes"]), sha256, fields["time"])
