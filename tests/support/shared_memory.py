"""Commands in a mount namespace of their own, where /dev/shm is as small as in a plain container."""

import shlex
import subprocess
from collections.abc import Sequence

import pytest


def with_small_shm(command: Sequence[object], size: str = "64m", before: str = "true") -> list[str]:
    """A command line that runs a command where /dev/shm is empty and of a given size.

    Skips the test where mounting is not allowed.

    Args:
        size: as mount takes it, such as 64m.
        before: shell command to run first.
    """
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine does not let a process mount a file system of its own (unshare -m)")
    return ["unshare", "-m", "sh", "-c", f"{mount} && {before} && exec {shlex.join(map(str, command))}"]
