"""Indexing third-party shards: reruns, detection of changes and damage, and files of others, which stay unchanged."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from tiny_foreign_shards import (
    BEGIN,
    ROOT,
    WRITTEN,
    assert_reads_as_stock_webdataset_does,
    assert_verifies,
    command,
    files,
    index_shards,
    sample,
    special,
    write_samples,
    write_tar,
)
from tiny_shards import encode_audio, jpeg, tone, write_data_set

from configs.errors import UsageError
from configs.schema import VerifyConfig
from pipelines.stream.index import DatasetIndex
from pipelines.verify import main as verify_main


def test_rerun_gives_the_same_bytes_and_indexes_new_and_changed_shards(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(6)])
    assert index_shards(folder, capsys)[0] == 0
    first = files(folder)
    old = DatasetIndex.open(folder)
    assert index_shards(folder, capsys)[0] == 0
    assert files(folder) == first
    shutil.copy(
        write_samples(tmp_path / "b", [sample(n, "new{}") for n in range(2)]) / "00000.tar", folder / "00007.tar"
    )
    assert verify_main(VerifyConfig(), str(folder)) == 1
    assert "00007.tar is not in manifest.json" in capsys.readouterr().out
    assert index_shards(folder, capsys)[0] == 0
    new = assert_reads_as_stock_webdataset_does(folder)
    assert (old.clips, new.clips) == (6, 8) and old.fingerprint != new.fingerprint
    assert {name: data for name, data in files(folder).items() if name in first and name not in WRITTEN} == {
        k: v for k, v in first.items() if k not in WRITTEN
    }
    assert_verifies(folder, capsys)


def test_tar_that_changed_after_indexing_is_detected(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    assert index_shards(folder, capsys)[0] == 0
    tar = folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[1600] ^= 1
    tar.write_bytes(data)
    assert verify_main(VerifyConfig(), str(folder)) == 1
    out = capsys.readouterr().out
    assert "the SHA-256 of 00000.tar does not match" in out and "python -m pipelines.stream.index DIR" in out
    tar.write_bytes(bytes(data) + bytes(10240))
    with pytest.raises(UsageError, match=r"00000\.tar has \d+ bytes, manifest\.json states"):
        DatasetIndex.open(folder)
    assert index_shards(folder, capsys)[0] == 0
    assert DatasetIndex.open(folder).clips == 3


@pytest.mark.parametrize("name", ["00000.json", "manifest.json", "stats.json", "rejected.jsonl", "build.json"])
def test_existing_file_of_others_is_never_overwritten(tmp_path, capsys, name):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    (folder / name).write_text('{"mine": true}')
    before = files(folder)
    code, _, error = index_shards(folder, capsys)
    assert code == 2
    assert name in error or (name == "build.json" and "pipelines.build" in error)
    assert files(folder) == before


def test_data_set_of_pipelines_build_is_not_indexed_again(tmp_path, capsys):
    folder = write_data_set(tmp_path / "a", [2])
    before = files(folder)
    assert index_shards(folder, capsys)[0] == 2
    assert files(folder) == before


def test_read_only_folder_is_rejected_before_reading_and_a_folder_of_links_works(capsys):
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder, me = write_samples(Path(root) / "a", [sample(n) for n in range(3)]), os.geteuid()
        Path(root).chmod(0o755)
        folder.chmod(0o555)
        if me == 0:
            os.seteuid(65534)
        try:
            code, _, error = index_shards(folder, capsys)
        finally:
            os.seteuid(me)
            folder.chmod(0o755)
        assert (code, files(folder).keys()) == (1, {"00000.tar"})
        assert "cannot be written (Permission denied): make a folder of links" in error
        links = Path(root) / "links"
        links.mkdir()
        (links / "00000.tar").symlink_to(folder / "00000.tar")
        assert index_shards(links, capsys)[0] == 0
        assert_reads_as_stock_webdataset_does(links)
        assert files(folder).keys() == {"00000.tar"}


def test_command_exits_with_0_1_or_2_and_its_result_passes_verify(tmp_path):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(4)])
    assert command(folder).returncode == 0
    for checked in ("verify", "inspect"):
        done = subprocess.run(
            [sys.executable, "-m", f"pipelines.{checked}", str(folder)], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    (folder / "00001.tar").write_bytes(BEGIN)
    rejected, wrong = command(folder), command(tmp_path / "none")
    assert (rejected.returncode, wrong.returncode) == (1, 2)
    assert all(done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 for done in (rejected, wrong))


def test_killed_command_leaves_no_data_set_and_can_be_rerun(tmp_path):
    folder = tmp_path / "a"
    big = [
        (f"{n}{extension}", data) for n in range(1500) for extension, data in ((".jpg", bytes(30_000)), (".flac", b"x"))
    ]
    for number in range(6):
        write_tar(folder / f"{number}.tar", big)
    running = subprocess.Popen(
        [sys.executable, "-m", "pipelines.stream.index", str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    while not list(folder.glob(".scratch-*/*.json")) and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not list(folder.glob("*.json"))
    assert command(folder).returncode == 0
    assert DatasetIndex.open(folder).clips == 9000


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _rewrite(folder: Path, members: list[tuple[str, bytes]]) -> None:
    """Replace the tar and update size and hash in its index, as a careless repair would."""
    data = write_tar(folder / "0.tar", members).read_bytes()
    new = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _edit(folder / "0.json", lambda index: index.update(new))
    _edit(folder / "manifest.json", lambda manifest: manifest["shards"][0].update(new))


GOOD = [("a.JPG", jpeg(1)), ("a.flac", encode_audio(tone(1))), ("a.txt", b"not indexed")]
DAMAGES = {
    "offset wrong": (
        lambda folder: _edit(folder / "0.json", lambda i: i["members"][0]["files"].update(jpg=[0, 5])),
        "0.json lists a.JPG at (0, 5)",
    ),
    "id outside the folder": (
        lambda folder: _edit(folder / "0.json", lambda i: i["members"][0].update(id="../a")),
        "'../a' is not a valid id",
    ),
    "id of two lines": (
        lambda folder: _edit(folder / "0.json", lambda i: i["members"][0].update(id="a\nb")),
        "'a\\nb' is not a valid id",
    ),
    "member lost": (lambda folder: _rewrite(folder, GOOD[:1]), "0.tar lacks a.flac"),
    "member twice": (lambda folder: _rewrite(folder, [*GOOD, ("a.jpg", b"x")]), "0.tar contains a.jpg twice"),
    "link": (
        lambda folder: _rewrite(folder, [*GOOD, (special("b.jpg", tarfile.SYMTYPE, "x"), b"")]),
        "0.tar contains b.jpg, which is not a regular file",
    ),
    "truncated": (
        lambda folder: os.truncate(folder / "0.tar", 2000),
        "0.tar has 2000 bytes, but manifest.json has size_bytes=10240",
    ),
    "index gone": (lambda folder: (folder / "0.json").unlink(), "0.json cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_verify_finds_damage_of_a_foreign_data_set(tmp_path, capsys, kind):
    write_tar(tmp_path / "a/0.tar", GOOD)
    assert index_shards(tmp_path / "a", capsys)[0] == 0
    assert_verifies(tmp_path / "a", capsys)
    damage, message = DAMAGES[kind]
    damage(tmp_path / "a")
    assert verify_main(VerifyConfig(), str(tmp_path / "a")) == 1
    assert message in capsys.readouterr().out
