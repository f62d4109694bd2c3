"""Downloads and unpacks plain files, each with the SHA-256 of its first complete download."""

from pathlib import Path

from tqdm import tqdm

from configs.errors import CommandFailed
from configs.schema import DownloadConfig, DownloadFileConfig
from pipelines.download.files import is_present, wanted_files
from pipelines.download.http_download import HttpDownload, HttpOptions
from pipelines.download.ledger import Ledger, sha256_of
from pipelines.download.unpack import unpack


class FileDownloads:
    """Downloads and unpacks the files of a configuration.

    Args:
        config: settings of the download.
        ledger: gets an entry for each complete file and each unpacked archive.
    """

    def __init__(self, config: DownloadConfig, ledger: Ledger) -> None:
        self._config, self._ledger = config, ledger
        self._root = Path(config.source.root)

    def run(self) -> int:
        """Download and unpack what is missing; returns how many files that were.

        Raises:
            CommandFailed: a file cannot be downloaded or unpacked, or is another one than before.
        """
        missing = [
            (file, path)
            for file, path in wanted_files(self._config)
            if not is_present(self._root, file, path, self._ledger.entries)
        ]
        for file, path in missing:
            (self._root / path).parent.mkdir(parents=True, exist_ok=True)
            if not self._take_over(file, path):
                self._download(file, path)
            if file.unpack:
                self._unpack(path)
        return len(missing)

    def _expected_sha256(self, file: DownloadFileConfig, path: str) -> str:
        """That of the settings, or else of the first complete download; "" before that."""
        entry = self._ledger.entries.get(f"file:{path}")
        return file.sha256.lower() or (entry.sha256 if entry else "")

    def _take_over(self, file: DownloadFileConfig, path: str) -> bool:
        """Record a file that is complete: one that was put there by hand, or that a killed process had finished."""
        target, entry = self._root / path, self._ledger.entries.get(f"file:{path}")
        if not target.is_file() or (entry and target.stat().st_size != entry.size_bytes):
            return False
        found, expected = sha256_of(target), self._expected_sha256(file, path)
        if not expected or found == expected:
            self._ledger.add(f"file:{path}", "done", file.url, target.stat().st_size, found)
            return True
        if not entry:
            raise CommandFailed(
                f"{target} has the SHA-256 {found}, expected {expected}; move it away, then run the same command again"
            )
        return False

    def _download(self, file: DownloadFileConfig, path: str) -> None:
        target, expected = self._root / path, self._expected_sha256(file, path)
        options = HttpOptions(self._config.retries, self._config.timeout_s, self._config.proxy)
        with tqdm(desc=target.name, unit="B", unit_scale=True) as bar:

            def on_bytes(received: int, total: int) -> None:
                bar.total = total or None
                bar.update(received - bar.n)

            download = HttpDownload(file.url, target, options, on_bytes)
            part = download.run()
        found, size_bytes = sha256_of(part), part.stat().st_size
        if expected and found != expected:
            download.discard()
            origin = f"files: sha256 of {path}" if file.sha256 else "the first download, in the ledger"
            kept = f"{target} is kept as it is" if target.exists() else "nothing was stored"
            raise CommandFailed(
                f"{file.url} has another content than expected: SHA-256 {found}, not {expected} ({origin}); {kept}"
            )
        download.finish()
        self._ledger.add(f"file:{path}", "done", file.url, size_bytes, found)

    def _unpack(self, path: str) -> None:
        with tqdm(desc=f"unpacking {path}", unit="B", unit_scale=True) as bar:

            def on_bytes(size_bytes: int) -> None:
                bar.update(size_bytes)

            total = unpack(self._root / path, on_bytes)
        self._ledger.add(f"unpacked:{path}", "done", f"{total} bytes", total)
