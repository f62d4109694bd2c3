"""Atomic file writes, and locks on folders."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from configs.atomic_write import folder_lock, locked_run_dir
from configs.errors import UsageError


def test_folder_lock_is_exclusive_and_released_when_its_process_is_killed(tmp_path):
    hold = """
import sys, time
from pathlib import Path
from configs.atomic_write import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UsageError, match="is being written by another command"), folder_lock(tmp_path):
        pass
    other.kill()
    other.communicate()
    with folder_lock(tmp_path):
        pass


def test_file_system_without_locks_is_a_warning_unless_the_lock_is_required(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_):\n    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock\n"
    )
    code = """
from pathlib import Path
from configs.atomic_write import folder_lock
with folder_lock(Path(".")):
    print("used")
with folder_lock(Path("."), required=True):
    print("never")
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "used\n"
    assert done.stderr.startswith("warning: the file system of . has no locks (No locks available); make sure that no")
    assert done.stderr.endswith("OSError: [Errno 37] No locks available\n")


def test_locked_run_dir_is_removed_only_if_it_is_still_empty(tmp_path):
    new, used = tmp_path / "a/new", tmp_path / "used"
    with pytest.raises(UsageError, match="refused"), locked_run_dir(new):
        raise UsageError("refused")
    assert not new.exists() and new.parent.is_dir()
    with locked_run_dir(used):
        with pytest.raises(UsageError, match="is being written by another command"), locked_run_dir(used):
            pass
        (used / "x").touch()
    assert (used / "x").exists()
