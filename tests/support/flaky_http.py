"""A web server with faults, in a second process on a free loopback port: `serve_flaky(folder)`. GET only.

The faults of the next answers are set while it runs: `server.plan({"train-000000.tar": ["503", "cut"]})` gives two bad
answers for that file, then good ones; a final "..." repeats the previous fault forever; "*" stands for every file.
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
    """The server as the tests control it.

    Attributes:
        address: URL of the served folder.
    """

    def __init__(self, address: str, control: Path) -> None:
        self.address, self._control = address, control

    def plan(self, faults: dict[str, list[str]], delay_s: float = 0.0) -> None:
        """Set the faults of the next answers by file name, and a delay of all answers."""
        new = self._control / "plan.new"
        new.write_text(json.dumps({"faults": faults, "delay_s": delay_s, "number": time.monotonic_ns()}))
        new.replace(self._control / "plan")

    def answers(self) -> Counter[tuple[str, str]]:
        """Number of answers by (file name, fault or "good")."""
        log = self._control / "log"
        return Counter(tuple(line.split()) for line in log.read_text().splitlines()) if log.exists() else Counter()

    def requests(self, name: str) -> int:
        """Number of requests for a file."""
        return sum(count for (found, _), count in self.answers().items() if found == name)


@contextlib.contextmanager
def serve_flaky(folder: Path) -> Iterator[FlakyServer]:
    with tempfile.TemporaryDirectory() as control:
        command = [sys.executable, __file__, str(folder), control]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield FlakyServer(f"http://127.0.0.1:{int(process.stdout.readline())}/set", Path(control))
            finally:
                process.kill()


class _Faults:
    def __init__(self, control: Path) -> None:
        self._control, self._lock = control, threading.Lock()
        self._plan = {"faults": {}, "delay_s": 0.0, "number": 0}

    def next(self, name: str) -> tuple[str, float]:
        """The fault of the next answer, and its delay."""
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                plan = json.loads((self._control / "plan").read_text())
                if plan["number"] != self._plan["number"]:
                    self._plan = plan
            faults = self._plan["faults"]
            waiting = faults.get(name, faults.get("*", []))
            fault = waiting[0] if waiting else "good"
            if waiting and waiting[1:] != ["..."]:
                del waiting[0]
            with (self._control / "log").open("a") as log:
                log.write(f"{name} {fault}\n")
            return fault, self._plan["delay_s"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    faults: _Faults

    def do_GET(self) -> None:
        name = self.path.removeprefix("/set/")
        fault, delay_s = self.faults.next(name)
        time.sleep(delay_s)
        path = self.folder / name
        if fault == "refuse":
            self._hang_up()
        elif fault.isdigit():
            self._answer(int(fault), b"try later")
        elif not path.is_file():
            self._answer(404, b"no such file")
        elif fault == "page":
            self._answer(200, b"<html>welcome</html>")
        else:
            self._answer_with_fault(path.read_bytes(), fault)

    def _answer_with_fault(self, data: bytes, fault: str) -> None:
        half = data[: len(data) // 2]
        if fault == "good":
            self._answer(200, data)
        elif fault == "cut":  # truncated, with the matching length
            self._answer(200, half)
        elif fault == "wrong":
            self._answer(200, half + bytes(byte ^ 1 for byte in data[len(half) :]))
        elif fault == "long":
            self._answer(200, data + b"more")
        elif fault == "short":  # truncated, with the full length
            self._answer(200, half, len(data))
            self.close_connection = True
        elif fault == "drop":
            self._answer(200, half, len(data))
            self._hang_up()
        elif fault == "hang":
            self._answer(200, half, len(data))
            time.sleep(3600)
        elif fault == "drip":
            self._answer(200, half, len(data))
            for byte in data[len(half) :]:
                time.sleep(0.2)
                self.wfile.write(bytes([byte]))
        elif fault == "slow":
            time.sleep(0.3)
            self._answer(200, data)
        else:
            raise AssertionError(fault)

    def _answer(self, status: int, data: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _hang_up(self) -> None:
        """Close the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


if __name__ == "__main__":
    _Handler.folder, _Handler.faults = Path(sys.argv[1]), _Faults(Path(sys.argv[2]))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
