"""A web server on loopback with Range, for downloads: files and video pages, with faults set per path.

`server.faults["v.mp4"] = ["503", "short"]` gives two bad answers for that file, then good ones; a final "..." repeats
the previous fault forever. A fault with the prefix `range:` waits for a request with a Range header: yt-dlp looks at a
file without one, ffmpeg reads it with one. The pages of tests/support/yt_dlp_plugins are `server.pages["ID"] = {...}`.
"""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class MediaServer:
    """The server as the tests control it.

    Attributes:
        address: URL of the served folder.
        folder: the files.
        faults: faults of the next answers by path.
        pages: answers of /info/ID.json, for the extractor of the tests.
        headers: additional headers by path.
        requests: (path, Range header) of each request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self.faults: dict[str, list[str]] = {}
        self.pages: dict[str, dict] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()

    def next_fault(self, path: str, is_range: bool) -> str:
        with self.lock:
            waiting = self.faults.get(path) or self.faults.get("*") or []
            if not waiting or (waiting[0].startswith("range:") and not is_range):
                return "good"
            fault = waiting[0].removeprefix("range:")
            if waiting[1:] != ["..."]:
                del waiting[0]
            return fault

    def watch(self, video_id: str) -> str:
        """Address of the page of a video."""
        return f"{self.address}/watch?v={video_id}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    media: MediaServer

    def do_GET(self) -> None:
        path = self.path.lstrip("/").partition("?")[0]
        wanted = self.headers.get("Range")
        with self.media.lock:
            self.media.requests.append((path, wanted))
        if match := re.fullmatch(r"info/([\w-]+)\.json", path):
            self._send(200, json.dumps(self.media.pages[match[1]]).encode(), {"Content-Type": "application/json"})
            return
        fault = self.media.next_fault(path, wanted is not None)
        file = self.media.folder / path
        if fault.isdigit():
            self._send(int(fault), b"later", self.media.headers.get(fault, {}))
        elif fault == "html":
            self._send(200, b"<!DOCTYPE html><title>Log in</title>", {"Content-Type": "text/html"})
        elif not file.is_file():
            self._send(404, b"no such file", {})
        else:
            self._send_file(path, file.read_bytes(), wanted, fault)

    do_HEAD = do_GET

    def _send_file(self, path: str, data: bytes, wanted: str | None, fault: str) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Content-Type": "video/mp4" if path.endswith(".mp4") else "application/octet-stream"}
        headers |= self.media.headers.get(path, {})
        begin, end, status = 0, len(data), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if match and fault != "no-range" and self.headers.get("If-Range", etag) == etag:
            begin, end = int(match[1]), int(match[2]) + 1 if match[2] else len(data)
            if begin >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            status = 206
        body = data[begin:end]
        if fault in ("short", "stall", "drip"):
            sent = body[: max(0, len(data) * 6 // 10 - begin)]  # the rest of the file never arrives
            self._send(status, sent, headers, len(body))
            self.close_connection = True
            if fault == "stall":
                time.sleep(30)
            for byte in body[len(sent) :] if fault == "drip" else b"":
                time.sleep(0.05)
                self.wfile.write(bytes([byte]))
            return
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


@contextlib.contextmanager
def serve_media(folder: Path) -> Iterator[MediaServer]:
    media = MediaServer(folder)
    handler = type("Handler", (_Handler,), {"media": media})
    with _Server(("127.0.0.1", 0), handler) as server:
        media.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield media
        finally:
            server.shutdown()
            thread.join()
