"""Downloads one plain file over HTTP, resumed after an interruption, and complete or absent under its name.

    .NAME.part         what has arrived
    .NAME.part.json    {"url", "validator", "total_bytes"}: the version of the file, for If-Range

A part is continued only if the server confirms that the file is the same one; otherwise the download starts over.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from configs.atomic_write import atomic_open
from configs.errors import CommandFailed

_CHUNK_BYTES = 1 << 14  # what is lost at most when a connection breaks off
_MAX_RETRY_AFTER_S = 300.0
_MAX_BACKOFF_S = 60.0
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html|head|script|meta)\b", re.IGNORECASE)
_TRANSIENT = {408, 425, 500, 502, 503, 504}
_MAX_RESTARTS = 1


class _Retry(Exception):
    """A failure that may pass."""


@dataclass
class HttpOptions:
    """How to download.

    Attributes:
        retries: consecutive attempts without progress before the download stops.
        timeout_s: a connection without data for this long has failed.
        proxy: HTTP proxy, or "".
        sleep: time.sleep, or that of a test.
    """

    retries: int = 3
    timeout_s: float = 30.0
    proxy: str = ""
    sleep: Callable[[float], None] = time.sleep


class HttpDownload:
    """The download of one file.

    Args:
        url: address of the file.
        target: name of the finished file; its folder exists.
        options: how to download.
        on_bytes: called with the number of bytes that are there and the total, 0 if the server does not state it.
    """

    def __init__(self, url: str, target: Path, options: HttpOptions, on_bytes: Callable[[int, int], None]) -> None:
        self._url, self._target, self._options, self._on_bytes = url, target, options, on_bytes
        self._part = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")
        self._restarts = 0
        self._session = requests.Session()
        if options.proxy:
            self._session.proxies = {"http": options.proxy, "https": options.proxy}

    def run(self) -> Path:
        """Download the file and return its path, still with the name of a part.

        Raises:
            CommandFailed: the server does not have the file, answers a web page, limits the rate, sends another file,
                or too many attempts failed in a row; or the disk is too small.
        """
        failures = 0
        with self._session:
            while True:
                before = self._part_bytes()
                try:
                    self._attempt()
                    return self._part
                except (_Retry, requests.RequestException) as error:
                    failures = 0 if self._part_bytes() > before else failures + 1
                    if failures >= self._options.retries:
                        raise CommandFailed(
                            f"{self._url}: {_one_line(error)}, {failures} attempts in a row; run the same command again"
                        ) from None
                    self._options.sleep(min(_MAX_BACKOFF_S, 2.0**failures))

    def discard(self) -> None:
        """Remove the part."""
        self._part.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the finished part its name."""
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        self._part.replace(self._target)
        self._notes.unlink(missing_ok=True)

    def _part_bytes(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self) -> None:
        offset, validator, known_total = self._resume_point()
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        timeout_s = self._options.timeout_s
        with self._session.get(self._url, headers=headers, stream=True, timeout=(timeout_s, timeout_s)) as answer:
            self._check_status(answer)
            if answer.status_code == 416:
                if (total := _range_total(answer)) == offset == known_total:
                    return
                raise self._restart(f"it has {total} bytes now, and {offset} have arrived")
            begin, total = self._expected(answer, offset)
            if offset and known_total and total and total < known_total:
                raise self._restart(f"it shrank from {known_total} to {total} bytes")
            self._write_notes(answer, total)
            self._check_space(total - begin)
            self._receive(answer, begin, total)

    def _resume_point(self) -> tuple[int, str, int]:
        """Bytes that are there, what proves that the file is the same, and its size; 0 bytes without such a proof."""
        try:
            notes = json.loads(self._notes.read_bytes())
            if notes["url"] == self._url and notes["validator"]:
                return self._part_bytes(), notes["validator"], int(notes["total_bytes"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        return 0, "", 0

    def _check_status(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status in (200, 206, 416):
            return
        text = f"HTTP {status} {answer.reason}"
        if status in (429, 503) and (wait_s := _retry_after_s(answer)) is not None:
            if wait_s > _MAX_RETRY_AFTER_S:
                raise CommandFailed(
                    f"{self._url}: {text}, to be retried after {wait_s:.0f} s; run the same command again then"
                )
            self._options.sleep(wait_s)
        if status == 429 or status in _TRANSIENT:
            raise _Retry(text)
        raise CommandFailed(
            f"{self._url}: {text}; if it has moved, set the url of this file, or put {self._target} there"
        )

    def _expected(self, answer: requests.Response, offset: int) -> tuple[int, int]:
        """Where the answer begins in the file, and the size of the file, 0 if unknown."""
        if answer.status_code == 206:
            match = re.match(r"bytes (\d+)-\d*/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not match or int(match[1]) != offset:
                raise self._restart("the server sent another range than the one requested")
            return offset, 0 if match[2] == "*" else int(match[2])
        return 0, 0 if _is_encoded(answer) else int(answer.headers.get("Content-Length", "").strip() or 0)

    def _restart(self, why: str) -> _Retry:
        """Remove the part; the error that starts the download over."""
        self._restarts += 1
        self.discard()
        if self._restarts > _MAX_RESTARTS:
            raise CommandFailed(
                f"{self._url}: the file changes during the download ({why}); run the same command later"
            )
        print(f"{self._url}: {why}; the download starts over", file=sys.stderr)
        return _Retry(why)

    def _write_notes(self, answer: requests.Response, total: int) -> None:
        etag = answer.headers.get("ETag", "")
        validator = answer.headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
        validator = "" if _is_encoded(answer) else validator  # ranges would be those of the compressed file
        with atomic_open(self._notes) as file:
            file.write(json.dumps({"url": self._url, "validator": validator, "total_bytes": total}).encode())

    def _check_space(self, size_bytes: int) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if size_bytes > free:
            raise CommandFailed(
                f"{self._target} needs {size_bytes / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; free some "
                "space or choose another source.root"
            )

    def _receive(self, answer: requests.Response, begin: int, total: int) -> None:
        received = begin
        with self._part.open("rb+" if begin else "wb") as file:
            file.seek(begin)
            file.truncate()
            for chunk in answer.iter_content(_CHUNK_BYTES):
                if not received:
                    self._refuse_web_page(answer, chunk)
                file.write(chunk)
                received += len(chunk)
                self._on_bytes(received, total)
        if total and received != total:
            raise _Retry(f"the connection broke off after {received} of {total} bytes")

    def _refuse_web_page(self, answer: requests.Response, first: bytes) -> None:
        """A login page or a proxy answers with status 200."""
        kind = answer.headers.get("Content-Type", "")
        if self._target.suffix not in (".html", ".htm") and (kind.startswith("text/html") or _WEB_PAGE.match(first)):
            self.discard()
            raise CommandFailed(
                f"{self._url} answered a web page in place of {self._target.name}: is there a proxy or a login? "
                "Open the address in a browser"
            )


def _is_encoded(answer: requests.Response) -> bool:
    """Whether the server compressed the file although it was asked not to."""
    return answer.headers.get("Content-Encoding", "identity") != "identity"


def _range_total(answer: requests.Response) -> int:
    match = re.match(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _retry_after_s(answer: requests.Response) -> float | None:
    """The pause that a server asks for; None if it does not, or gives a date."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(answer.headers["Retry-After"])) if "Retry-After" in answer.headers else None
    return None


def _one_line(error: Exception) -> str:
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "the server stopped answering"
    return " ".join(str(error).split())[:200]
