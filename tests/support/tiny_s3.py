"""An S3 server on loopback: moto in a second process, on a free port."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serve_s3(*buckets: str) -> Iterator[dict[str, str]]:
    """Yield the environment variables of clients; cached clients in this process are discarded afterwards."""
    import s3fs

    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=log) as server,
    ):
        try:
            environment = {
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            environment["AWS_ENDPOINT_URL"] = _address(server, Path(log.name))
            make = "import s3fs, sys; fs = s3fs.S3FileSystem(); [fs.mkdir(bucket) for bucket in sys.argv[1:]]"
            subprocess.run(
                [sys.executable, "-c", make, *buckets], env={**os.environ, **environment}, check=True, timeout=60
            )
            yield environment
        finally:
            server.kill()
            s3fs.S3FileSystem.clear_instance_cache()


def _address(server: subprocess.Popen, log: Path) -> str:
    while server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.01)
    raise RuntimeError(log.read_text())
