"""A small built data set, and functions to damage and to verify it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT
from tiny_media import write_video

from configs.schema import VerifyConfig
from pipelines.verify import main

TAR, INDEX = "train-000001.tar", "train-000001.json"


def build_data_set(root: Path) -> Path:
    """Two shards of three rows each; one row is rejected."""
    first = write_video(root / "media/0.mp4", duration_s=0.6, events_s=(0.3,))
    for number in range(1, 6):
        shutil.copy(first, root / f"media/{number}.mp4")
    (root / "media/2.mp4").write_bytes(b"")
    arguments = [f"source.root={root}/media", f"out={root}/out", "clips_per_shard=3", "decode.frames_per_clip=2"]
    subprocess.run([sys.executable, "-m", "pipelines.build", *arguments], cwd=ROOT, check=True, capture_output=True)
    return root / "out"


def verify(out: Path, capsys) -> tuple[int, list[str]]:
    """The exit code and the printed lines, without the summary table."""
    code = main(VerifyConfig(), str(out))
    lines = capsys.readouterr().out.splitlines()
    return code, [line for line in lines if not line.startswith(("shards ", "clips ", "problems "))]


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The data set."""
    return build_data_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def out(built, tmp_path):
    """A copy of the data set, for a test to damage."""
    return Path(shutil.copytree(built, tmp_path / "out"))
