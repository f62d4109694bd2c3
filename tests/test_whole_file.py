"""Files that are there whole or not at all, and folders with one writer."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.command import UsageError
from pipelines.whole_file import only_writer

ROOT = Path(__file__).resolve().parent.parent


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path):
    hold = """
import sys, time
from pathlib import Path
from pipelines.whole_file import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UsageError, match="is being written by another command"), only_writer(tmp_path):
        pass
    other.kill()
    other.communicate()
    with only_writer(tmp_path):
        pass
