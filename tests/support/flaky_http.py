"""A web server with troubles, as a second process on loopback: `serve_flaky(folder)`. It knows GET only, and lists no folder.

What befalls the next answers is set while it runs: `server.plan({"train-000000.tar": ["503", "cut"]})` gives two bad answers for that file, then good
ones; a last "..." repeats the one before it for ever; "*" stands for every file.
"""

import contextlib
import http.server
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


class FlakyServer:
    """The side of the tests.

    Attributes:
        address: of the folder served.
    """

    def __init__(self, address: str, control: Path) -> None:
        self.address, self._control = address, control

    def plan(self, troubles: dict[str, list[str]], delay_s: float = 0.0) -> None:
        """Name of a file -> what its next answers are; and how late all of them are."""
        new = self._control / "plan.new"
        new.write_text(json.dumps({"troubles": troubles, "delay_s": delay_s, "number": time.monotonic_ns()}))
        new.replace(self._control / "plan")

    def answers(self) -> Counter[tuple[str, str]]:
        """How often (name, trouble or "good") was the answer."""
        log = self._control / "log"
        return Counter(tuple(line.split()) for line in log.read_text().splitlines()) if log.exists() else Counter()

    def asked(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(count for (found, _), count in self.answers().items() if found == name)


@contextlib.contextmanager
def serve_flaky(folder: Path) -> Iterator[FlakyServer]:
    with tempfile.TemporaryDirectory() as control:
        words = [sys.executable, __file__, str(folder), control]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield FlakyServer(f"http://127.0.0.1:{int(process.stdout.readline())}/set", Path(control))
            finally:
                process.kill()


class _Troubles:
    def __init__(self, control: Path) -> None:
        self._control, self._lock = control, threading.Lock()
        self._plan = {"troubles": {}, "delay_s": 0.0, "number": 0}

    def next(self, name: str) -> tuple[str, float]:
        """What befalls the next answer, and its delay."""
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                plan = json.loads((self._control / "plan").read_text())
                if plan["number"] != self._plan["number"]:
                    self._plan = plan
            troubles = self._plan["troubles"]
            waiting = troubles.get(name, troubles.get("*", []))
            trouble = waiting[0] if waiting else "good"
            if waiting and waiting[1:] != ["..."]:
                del waiting[0]
            with (self._control / "log").open("a") as log:
                log.write(f"{name} {trouble}\n")
            return trouble, self._plan["delay_s"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    troubles: _Troubles

    def do_GET(self) -> None:
        name = self.path.removeprefix("/set/")
        trouble, delay_s = self.troubles.next(name)
        time.sleep(delay_s)
        path = self.folder / name
        if trouble == "refuse":
            self._hang_up()
        elif trouble.isdigit():
            self._answer(int(trouble), b"try later")
        elif not path.is_file():
            self._answer(404, b"no such file")
        elif trouble == "page":
            self._answer(200, b"<html>welcome</html>")
        else:
            self._spoilt(path.read_bytes(), trouble)

    def _spoilt(self, data: bytes, trouble: str) -> None:
        half = data[: len(data) // 2]
        if trouble == "good":
            self._answer(200, data)
        elif trouble == "cut":  # truncated, with a length that fits
            self._answer(200, half)
        elif trouble == "wrong":
            self._answer(200, half + bytes(byte ^ 1 for byte in data[len(half) :]))
        elif trouble == "long":
            self._answer(200, data + b"more")
        elif trouble == "short":  # truncated, with the length of all
            self._answer(200, half, len(data))
            self.close_connection = True
        elif trouble == "drop":
            self._answer(200, half, len(data))
            self._hang_up()
        elif trouble == "hang":
            self._answer(200, half, len(data))
            time.sleep(3600)
        elif trouble == "drip":
            self._answer(200, half, len(data))
            for byte in data[len(half) :]:
                time.sleep(0.2)
                self.wfile.write(bytes([byte]))
        elif trouble == "slow":
            time.sleep(0.3)
            self._answer(200, data)
        else:
            raise AssertionError(trouble)

    def _answer(self, status: int, data: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _hang_up(self) -> None:
        """Close so that the other side gets a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients go away too."""


if __name__ == "__main__":
    _Handler.folder, _Handler.troubles = Path(sys.argv[1]), _Troubles(Path(sys.argv[2]))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
