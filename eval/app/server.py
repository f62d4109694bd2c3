"""Serves the page: the worker, the temporary folder, and an HTTP server around Gradio."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.package_names import ROOT
from configs.schema import AppConfig
from eval.app.guard import Guard
from eval.app.jobs import Limits
from eval.app.pool import WorkerPool
from eval.app.temp_folder import TempFolder, temp_folder

_LOOPBACK = ("127.", "localhost", "::1")
_EXAMPLES = ("model/pretrained/examples", "data/toy/audioset/videos")  # the second one is what `make demo` makes
_MAX_EXAMPLES = 3
_MAX_CONNECTIONS = 1000


def serve(config: AppConfig) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Raises:
        UsageError: a checkpoint is not a model, or the address cannot be listened on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is deleted
    with _listen(config.host, config.port) as listener, temp_folder(config.temp, int(config.temp_gb * 1e9)) as folder:
        _prepare_gradio(folder)
        pool = WorkerPool(config.checkpoint.split(","), _limits(config), config.upsamplers.split(","))
        try:
            import gradio  # takes as long as loading the models, in another process

            assert gradio
            pool.wait_until_loaded()
            app = build_app(config, pool, folder)
            with _deleting(folder, config.keep_minutes * 60), contextlib.suppress(KeyboardInterrupt):
                print(f"http://{config.host}:{listener.getsockname()[1]} (Ctrl-C to stop)", flush=True)
                _run(app, listener)  # raises KeyboardInterrupt again after its own shutdown
        finally:
            pool.close()


def build_app(config: AppConfig, pool: WorkerPool, folder: TempFolder) -> Guard:
    """The page as an ASGI application, with all limits."""
    import gradio
    from fastapi import FastAPI

    from eval.app.page import STYLE, build_page, theme
    from eval.app.session import Sessions
    from eval.app.timeline import FOLLOW_VIDEO

    page = build_page(Sessions(pool, folder), config, find_examples())
    folder.keep_present_files()
    max_bytes = int(config.max_file_mb * 1e6)
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, path="/", server_name=config.host,
        server_port=config.port, footer_links=[], run_history=False, show_error=True, max_file_size=max_bytes,
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(),
        head=FOLLOW_VIDEO, css_paths=[STYLE],
    )  # fmt: skip
    page.has_launched = True  # otherwise Gradio does not check the paths that clients send
    return Guard(app, folder, max_bytes, only_loopback=config.host.startswith(_LOOPBACK))


def find_examples() -> list[Path]:
    """Videos to try: those that ship with the package, or some of the demo's."""
    for name in _EXAMPLES:
        if videos := sorted((ROOT / name).glob("*.mp4")):
            return videos[:_MAX_EXAMPLES]
    return []


def _limits(config: AppConfig) -> Limits:
    return Limits(config.max_duration_s, config.max_megapixels, config.timeout_s, config.memory_gb, config.jobs)


def _prepare_gradio(folder: TempFolder) -> None:
    """Settings that Gradio reads from the environment: own folders, no telemetry."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder.uploads),
        "GRADIO_EXAMPLES_CACHE": str(folder.uploads / "examples"),
        "GRADIO_SHARE": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",  # progress bars of the jobs
    }


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Raises UsageError: the address is in use or not one of this machine."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"host={host} port={port} cannot be listened on: {error.strerror}; give another port="
        ) from None
    with listener:
        if not host.startswith(_LOOPBACK):
            print(f"warning: host={host} serves the page to the network, without a password", file=sys.stderr)
        yield listener


@contextlib.contextmanager
def _deleting(folder: TempFolder, age_s: float) -> Iterator[None]:
    """Delete old files in the background."""
    stopped = threading.Event()

    def delete() -> None:
        while not stopped.wait(min(60, age_s / 4)):
            folder.delete_older_than(age_s)

    threading.Thread(target=delete, name="delete-old-files", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


def _run(app: Any, listener: socket.socket) -> None:
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=2, ws="none",
    )  # fmt: skip
    uvicorn.Server(settings).run(sockets=[listener])
