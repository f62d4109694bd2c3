"""Shards for `pipelines.inspect`, built and of stock webdataset, and what the command prints and writes about them."""

import html.parser
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from tiny_media import write_video, write_wav

from configs.schema import InspectConfig
from pipelines.inspect.__main__ import main

TAR = "train-000001.tar"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Four shards of two clips each."""
    root = tmp_path_factory.mktemp("data")
    first = write_video(root / "media/0.mp4", duration_s=0.8, events_s=(0.3,))
    for number in range(1, 8):
        shutil.copy(first, root / f"media/{number}.mp4")
    arguments = [
        f"source.root={root / 'media'}",
        f"out={root / 'out'}",
        "clips_per_shard=2",
        "decode.frames_per_clip=3",
        "processes=1",
    ]
    subprocess.run([sys.executable, "-m", "pipelines.build", *arguments], cwd=ROOT, check=True, capture_output=True)
    return root / "out"


@pytest.fixture
def out(built, tmp_path):
    """A copy of the shards, for a test to damage."""
    return Path(shutil.copytree(built, tmp_path / "out"))


@pytest.fixture
def stock(tmp_path):
    """A tar written by stock webdataset: PNG images, WAV audio, and members that only pickle or torch could read."""
    import webdataset

    rng = np.random.default_rng(0)
    wav = write_wav(tmp_path / "x.wav", 0.5 * np.ones(4000, np.float32), 8000).read_bytes()
    with webdataset.ShardWriter(f"file:{tmp_path}/stock-%06d.tar", verbose=0) as writer:
        for number in range(20):
            sample = {
                "png": rng.random((40, 60, 3)),
                "wav": wav,
                "json": {"text": f"caption {number}"},
                "npy": np.zeros((3, number + 1), np.float16),
            }
            writer.write({"__key__": f"a/{number:06d}", **sample, "cls": number, "pyd": {"never": "opened"}})
    return tmp_path / "stock-000000.tar"


def inspect(capsys, address: object, **settings) -> tuple[int, list[str]]:
    """Exit code and output lines of the command."""
    code = main(InspectConfig(**settings), str(address))
    return code, capsys.readouterr().out.splitlines()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar of these members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def ids(out: Path, shard: str = "train-*") -> list[str]:
    """Ids of the clips in the indices of a data set."""
    return [
        clip["id"] for index in sorted(out.glob(f"{shard}.json")) for clip in json.loads(index.read_text())["members"]
    ]


class Tags(html.parser.HTMLParser):
    """The tags, names of attributes and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.sources = set(), set(), []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value for name, value in attrs if name in ("src", "href")]
