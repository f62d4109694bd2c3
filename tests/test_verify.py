"""Verify finds every damage we could think of, each told in a line of its own, and nothing in a whole data set."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from small_media import write_video

from configs.command import UsageError
from configs.schema import VerifyConfig
from pipelines.verify import main

ROOT = Path(__file__).resolve().parent.parent
TAR, INDEX = "train-000001.tar", "train-000001.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two shards of three rows each, one row rejected."""
    root = tmp_path_factory.mktemp("data")
    first = write_video(root / "media/0.mp4", duration_s=0.6, events_s=(0.3,))
    for number in range(1, 6):
        shutil.copy(first, root / f"media/{number}.mp4")
    (root / "media/2.mp4").write_bytes(b"")
    arguments = [f"source.root={root / 'media'}", f"out={root / 'out'}", "clips_per_shard=3", "decode.frames_per_clip=2"]
    subprocess.run([sys.executable, "-m", "pipelines.build", *arguments], cwd=ROOT, check=True, capture_output=True)
    return root / "out"


@pytest.fixture
def out(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "out"))


def verify(out: Path, capsys) -> tuple[int, list[str]]:
    code = main(VerifyConfig(), str(out))
    return code, [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("shards ", "clips ", "damages "))]


def test_a_whole_data_set_has_no_damage(out, capsys):
    assert verify(out, capsys) == (0, [])


def test_what_other_commands_keep_in_the_folder_is_no_damage(out, capsys):
    (out / ".index").mkdir()
    (out / ".index/x.npy").write_bytes(b"x")
    assert verify(out, capsys) == (0, [])


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _restate(out: Path) -> None:
    """State the tar's new size and hash in index and manifest, as a careless repair would."""
    data = (out / TAR).read_bytes()
    new = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _edit(out / INDEX, lambda index: index.update(new))
    _edit(out / "manifest.json", lambda manifest: manifest["shards"][1].update(new))


def _lose_member(out: Path) -> None:
    with tarfile.open(out / TAR) as old, tarfile.open(out / "new", "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old.getmembers()[:-1]:
            new.addfile(member, old.extractfile(member))
    (out / "new").replace(out / TAR)
    _restate(out)


DAMAGES = {
    "no manifest": (lambda out: (out / "manifest.json").unlink(), "manifest.json is missing: the data set is unfinished"),
    "broken manifest": (lambda out: os.truncate(out / "manifest.json", 50), "manifest.json is not a manifest of shards"),
    "rows lost": (lambda out: _edit(out / "manifest.json", lambda m: m.update(rows=9)), "9 rows are not 5 written + 1 rejected"),
    "clips lost": (lambda out: _edit(out / "manifest.json", lambda m: m.update(written=4, rows=5)), "its shards have 5 clips, not the 4 written"),
    "tar missing": (lambda out: (out / TAR).unlink(), f"{TAR} is missing"),
    "tar cut by one byte": (lambda out: os.truncate(out / TAR, (out / TAR).stat().st_size - 1), f"{TAR} has "),
    "tar cut at half": (lambda out: os.truncate(out / TAR, 4096), f"{TAR} has 4096 bytes"),
    "tar grown": (lambda out: (out / TAR).write_bytes((out / TAR).read_bytes() + b"x"), f"{TAR} has "),
    "bit flipped in data": (lambda out: _flip(out / TAR, 5000), f"{TAR} has another SHA-256"),
    "index missing": (lambda out: (out / INDEX).unlink(), f"{INDEX} cannot be read"),
    "index broken": (lambda out: os.truncate(out / INDEX, 100), f"{INDEX} cannot be read"),
    "index of another tar": (lambda out: _edit(out / INDEX, lambda i: i.update(sha256="0")), f"{INDEX} and manifest.json differ in sha256"),
    "index short of a clip": (lambda out: _edit(out / INDEX, lambda i: i["members"].pop()), "clips, manifest.json says"),
    "offset wrong": (lambda out: _edit(out / INDEX, lambda i: i["members"][0]["files"].update(json=[0, 5])), f"{INDEX} puts "),
    "member lost": (_lose_member, f"{TAR} lacks "),
    "id twice": (lambda out: _edit(out / INDEX, lambda i: i["members"].append(i["members"][0])), "is used twice"),
    "stranger": (lambda out: shutil.copy(out / TAR, out / "train-000009.tar"), "train-000009.tar is not in manifest.json"),
    "ledger missing": (lambda out: (out / "rejected.jsonl").unlink(), "rejected.jsonl cannot be read"),
    "ledger cut": (lambda out: os.truncate(out / "rejected.jsonl", 0), "rejected.jsonl has 0 lines, manifest.json says 1"),
    "ledger changed": (
        lambda out: (out / "rejected.jsonl").write_text('{"id": "x", "reason": "missing", "detail": ""}\n'),
        "rejected.jsonl is not what the indices",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_told(out, capsys, damage):
    make, said = DAMAGES[damage]
    make(out)
    code, lines = verify(out, capsys)
    assert code == 1
    assert any(said in line for line in lines), lines


def test_a_tar_cut_anywhere_is_found(out, capsys):
    size_bytes = (out / TAR).stat().st_size
    data = (out / TAR).read_bytes()
    for kept in range(0, size_bytes, size_bytes // 15):
        (out / TAR).write_bytes(data[:kept])
        assert verify(out, capsys)[0] == 1, f"cut to {kept} of {size_bytes} bytes"


def test_a_folder_that_is_not_there_is_a_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no such folder of shards"):
        main(VerifyConfig(), str(tmp_path / "none"))


def test_the_command_exits_with_0_1_and_2(out):
    def code(*arguments):
        return subprocess.run([sys.executable, "-m", "pipelines.verify", *arguments], cwd=ROOT, capture_output=True).returncode

    assert code(str(out)) == 0
    (out / TAR).unlink()
    assert code(str(out)) == 1
    assert code() == 2
