"""A running `python -m eval.app` with a tiny model, and its HTTP interface without a browser."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from paths import ROOT

TIMEOUT_S = 240.0


@dataclass
class App:
    """A server; `temp` is the parent of its temporary folder."""

    process: subprocess.Popen
    url: str
    temp: Path
    log: Path

    @property
    def folder(self) -> Path:
        (folder,) = self.temp.glob("denseav-app-*")
        return folder

    def jobs(self) -> list[psutil.Process]:
        """The processes of running jobs: children of the worker."""
        server = psutil.Process(self.process.pid)
        return [job for worker in server.children() for job in worker.children() if "resource_tracker" not in str(job)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def write_tiny_model(folder: Path) -> Path:
    from tiny_training import tiny_config, tiny_model

    from model.hub import save_pretrained

    config = tiny_config("model.num_heads=2")
    folder.mkdir(parents=True)
    save_pretrained(tiny_model(config), config.model, folder)
    return folder


@contextlib.contextmanager
def tiny_app(folder: Path, *settings: str) -> Iterator[App]:
    """Start a server; its files are below the folder."""
    model, temp, log = folder / "model", folder / "temp", folder / "log"
    if not model.exists():
        write_tiny_model(model)
    temp.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {setting.partition("=")[0] for setting in settings}
    defaults = {"checkpoint": model, "port": port, "temp": temp}
    arguments = [f"{key}={value}" for key, value in defaults.items() if key not in given]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "eval.app", *arguments, *settings], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        app = App(process, f"http://127.0.0.1:{port}", temp, log)
        wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, "the server does not start")
        assert process.poll() is None, log.read_text()
        yield app
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


def wait_until(condition, message: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


class Visitor:
    """What a browser does, over HTTP: uploads, events, and the connection that keeps a session alive."""

    def __init__(self, app: App) -> None:
        self.session = uuid.uuid4().hex[:10]
        self.http = httpx.Client(base_url=app.url, timeout=TIMEOUT_S)
        weakref.finalize(self, self.http.close)
        self.config = self.http.get("/config").json()

    def upload(self, path: Path, name: str = "") -> dict:
        """Upload a file; returns what events take in its place."""
        response = self.http.post("/gradio_api/upload", files={"files": (name or path.name, path.read_bytes())})
        assert response.status_code == 200, response.text
        return file_data(response.json()[0])

    def join(self, button: str, *data: object) -> None:
        """Press a button, by its elem_id, with the values of its inputs."""
        (component,) = (c["id"] for c in self.config["components"] if c["props"].get("elem_id") == button)
        (event,) = (d for d in self.config["dependencies"] if [component, "click"] in d["targets"])
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": component}
        response = self.http.post("/gradio_api/queue/join", json=body)
        assert response.status_code == 200, response.text

    def answer(self) -> dict:
        """The output of the event, or {"error": message}."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message["output"]
        raise AssertionError("the server closed the connection")

    def localize(self, path: Path, view: str = "heatmap", upsampler: str = "bilinear") -> dict:
        """Upload a video, localize, and return the answer."""
        self.join("run-video", self.upload(path), view, upsampler, 0)
        return self.answer()

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """Keep the page open."""
        with self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}") as stream:
            lines = stream.iter_lines()  # its end would close the connection
            next(lines)
            yield


def file_data(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def video_path(answer: dict) -> Path:
    """The video on the server's disk of an answer."""
    assert "data" in answer, answer
    return Path(answer["data"][1]["path"])
