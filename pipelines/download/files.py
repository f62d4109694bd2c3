"""The plain files of a download: which ones there are, which are complete, and what has to be fetched by hand."""

import posixpath
import urllib.parse
from pathlib import Path

from configs.errors import UsageError
from configs.schema import DownloadConfig, DownloadFileConfig
from pipelines.download.ledger import Entry


def wanted_files(config: DownloadConfig) -> list[tuple[DownloadFileConfig, str]]:
    """The files of this split, each with its path below the root.

    Raises:
        UsageError: a split that no file is for, or a file without a valid address or path.
    """
    wanted = []
    splits = list(dict.fromkeys(file.split for file in config.files if file.split))
    if len(splits) > 1 and config.source.split and config.source.split not in splits and not config.source.segments:
        raise UsageError(f"source.split={config.source.split}: allowed are {', '.join(splits)}")
    for number, file in enumerate(config.files):
        address = urllib.parse.urlsplit(file.url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise UsageError(f"files.{number}.url={file.url!r} must be an address that starts with http:// or https://")
        path = file.path or posixpath.basename(address.path)
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise UsageError(f"files.{number}.path={path!r} must be a file below source.root")
        if file.sha256 and not (len(file.sha256) == 64 and set(file.sha256.lower()) <= set("0123456789abcdef")):
            raise UsageError(f"files.{number}.sha256={file.sha256!r} must be 64 hexadecimal digits")
        if not file.split or file.split == config.source.split:
            wanted.append((file, path))
    return wanted


def is_present(root: Path, file: DownloadFileConfig, path: str, entries: dict[str, Entry]) -> bool:
    """Whether a file, or what was unpacked from it, is there and complete."""
    if file.unpack:
        return f"unpacked:{path}" in entries
    entry, target = entries.get(f"file:{path}"), root / path
    return entry is not None and target.is_file() and target.stat().st_size == entry.size_bytes


def missing_by_hand(config: DownloadConfig) -> list[str]:
    """What has to be fetched by hand and is not there, one line each."""
    root = Path(config.source.root)
    return [
        f"by hand: {root / item.path}: {' '.join(item.text.split())}"
        for item in config.by_hand
        if not (root / item.path).exists()
    ]
