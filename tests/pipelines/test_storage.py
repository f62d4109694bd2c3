"""Folders of a data set behave alike wherever they lie, here, below file://, in memory, in an S3 that a second process serves on loopback; so do builds."""

import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_builds import ROOT, build, contents, running, start, wait, write_long_media, write_media
from tiny_s3 import serve_s3

from configs.errors import CommandFailed, UsageError
from pipelines.storage import LocalFolder, RemoteFolder, open_folder, read


@pytest.fixture(scope="module")
def s3():
    """A bucket; its address and credentials are in the environment."""
    with serve_s3("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        yield "s3://bucket"


@pytest.fixture(params=["local", "file", "memory", "s3"])
def folder(request, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    address = {
        "local": lambda: tmp_path / "set",
        "file": lambda: f"file://{tmp_path}/set",
        "memory": lambda: f"memory://{tmp_path.name}",
        "s3": lambda: f"{request.getfixturevalue('s3')}/{tmp_path.name}",
    }[request.param]()
    folder = open_folder(str(address))
    folder.create()
    return folder


def _write(folder, name, data):
    with folder.atomic_open(name) as file:
        file.write(data)


def test_a_folder_that_is_not_there_is_empty(tmp_path, s3):
    for address in (tmp_path / "no", f"memory://{tmp_path.name}/no", f"{s3}/{tmp_path.name}/no"):
        folder = open_folder(str(address))
        assert folder.sizes() == {}
        folder.remove("a")
        folder.remove_leftovers()
        with pytest.raises(FileNotFoundError):
            read(folder, "a")


def test_a_file_appears_whole_or_not_at_all(folder):
    assert folder.sizes() == {}
    with folder.atomic_open("a.tar") as file:
        file.write(b"half")
        assert folder.sizes() == {}
        file.write(b" and half")
    assert folder.sizes() == {"a.tar": 13} and read(folder, "a.tar") == b"half and half"
    _write(folder, "a.tar", b"other")
    assert folder.sizes() == {"a.tar": 5} and read(folder, "a.tar") == b"other"


@pytest.mark.parametrize("earlier", [b"", b"what was there"])
def test_an_error_while_writing_leaves_what_was_there(folder, tmp_path, earlier):
    if earlier:
        _write(folder, "a", earlier)
    with pytest.raises(KeyboardInterrupt), folder.atomic_open("a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert folder.sizes() == ({"a": len(earlier)} if earlier else {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a"]


def test_sizes_are_told_by_pattern_and_of_one_file(folder):
    _write(folder, "train-000000.tar", b"12345")
    _write(folder, "train-000000.json", b"{}")
    assert folder.sizes("*.tar") == {"train-000000.tar": 5}
    assert folder.sizes() == {"train-000000.tar": 5, "train-000000.json": 2}
    assert folder.size_bytes("train-000000.json") == 2
    for missing in (folder.size_bytes, folder.open):
        with pytest.raises(FileNotFoundError):
            missing("train-000001.tar")


def test_a_file_is_read_from_anywhere_in_it(folder):
    data = os.urandom(3 << 20)
    _write(folder, "a", data)
    with folder.open("a") as file:
        assert file.seek(2 << 20) == 2 << 20
        assert file.read(1000) == data[2 << 20 :][:1000]
        assert file.tell() == (2 << 20) + 1000
        file.seek(10)
        assert file.read(5) == data[10:15]
        file.seek(-3, os.SEEK_END)
        assert file.read() == data[-3:] and file.read() == b""


def test_a_large_file_is_uploaded_in_parts_and_comes_back_the_same(s3, tmp_path):
    folder = open_folder(f"{s3}/{tmp_path.name}")
    data = os.urandom(1 << 20) * 110  # s3fs uploads in parts from 100 MiB on
    _write(folder, "large", data)
    assert folder.size_bytes("large") == len(data) and read(folder, "large") == data


def test_what_is_removed_is_gone_and_may_be_removed_again(folder):
    _write(folder, "a", b"1")
    _write(folder, "b", b"1")
    folder.remove("a")
    folder.remove("a")
    assert folder.sizes() == {"b": 1}


def test_a_scratch_folder_is_there_for_a_while(folder):
    with folder.scratch() as scratch:
        (Path(scratch) / "rows.jsonl").write_text("text")
        assert folder.sizes() == {}
    assert not Path(scratch).exists()


def test_what_killed_writers_left_is_removed_and_nothing_else(folder, tmp_path):
    code = (
        "import os, signal, sys, tempfile\n"
        "from pathlib import Path\n"
        "from pipelines.storage import open_folder\n"
        "tempfile.tempdir = sys.argv[2]\n"
        "folder = open_folder(sys.argv[1])\n"
        "with folder.scratch() as scratch, folder.atomic_open('train-000000.tar') as file:\n"
        "    (Path(scratch) / 'rows.jsonl').write_text('rows')\n"
        "    file.write(b'half'), file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    temporary = tempfile.gettempdir()
    address = f"file://{folder}" if isinstance(folder, LocalFolder) else str(folder)
    assert subprocess.run([sys.executable, "-c", code, address, temporary], cwd=ROOT, timeout=60).returncode == -9
    _write(folder, "train-000001.tar", b"12345")
    assert list(tmp_path.rglob("rows.jsonl")) and folder.sizes() == {"train-000001.tar": 5}
    (Path(temporary) / "build-notes").write_text("another's")
    folder.remove_leftovers()
    assert folder.sizes() == {"train-000001.tar": 5}
    here = {path.name for path in tmp_path.rglob("*")} - {"temporary", "set", "train-000001.tar"}
    assert here == {"build-notes"}


def test_a_scratch_folder_in_use_is_not_taken_for_a_leftover(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = open_folder(f"{s3}/{tmp_path.name}")
    with folder.scratch() as scratch:
        open_folder(f"{s3}/{tmp_path.name}").remove_leftovers()
        assert Path(scratch).is_dir()


def test_half_written_files_of_killed_writers_are_removed_where_uploads_are_renamed(tmp_path):
    folder = RemoteFolder(f"simplecache::memory://{tmp_path.name}")  # a wrapper, so no object store by name
    folder.create()
    _write(folder, "a", b"1")
    plain = RemoteFolder(f"memory://{tmp_path.name}")
    _write(plain, ".b.host-1.tmp", b"half")
    assert plain.sizes() == {"a": 1}
    plain.remove_leftovers("b*")
    with pytest.raises(FileNotFoundError):
        plain.size_bytes(".b.host-1.tmp")
    assert read(plain, "a") == b"1"


def test_a_folder_sent_to_another_process_is_the_same_folder(folder, tmp_path, monkeypatch):
    _write(folder, "a", b"1")
    monkeypatch.chdir(tmp_path)
    near = open_folder("set") if isinstance(folder, LocalFolder) else folder
    sent = pickle.dumps(near)
    monkeypatch.chdir("/")
    assert read(pickle.loads(sent), "a") == b"1"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("foo://x", "foo://x: Protocol not known: foo"),
        ("gs://bucket/x", "gs://bucket/x: Please install gcsfs"),
        ("abfs://c/x", "Install adlfs"),
    ],
)
def test_an_address_that_nothing_reaches_is_a_wrong_use(address, said):
    with pytest.raises(UsageError, match=said):
        open_folder(address)


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_a_wrong_use_and_is_not_made():
    folder = open_folder("s3://no-such-bucket/set")
    with pytest.raises(UsageError, match="out=s3://no-such-bucket/set cannot be written, is there such a bucket"):
        folder.create()
    with pytest.raises(UsageError):
        open_folder("s3://no-such-bucket/set").create()
    assert folder.sizes() == {}


@pytest.mark.usefixtures("s3")
def test_a_store_that_does_not_answer_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # 10 s for each attempt without it
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    folder = open_folder("s3://bucket/set")
    for attempt in (folder.create, folder.sizes, lambda: read(folder, "a")):
        with pytest.raises(CommandFailed, match=r"s3://bucket/set.*127.0.0.1:9.*run the same command again") as told:
            attempt()
        assert "\n" not in str(told.value)
    s3fs.S3FileSystem.clear_instance_cache()


# ---------------------------------------------------------------------------------------------- object stores


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def built(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    assert build(media, out).returncode == 0
    return contents(out)


def _remote_contents(address: str) -> dict[str, bytes]:
    folder = open_folder(address)
    return {name: read(folder, name) for name in folder.sizes() if name != "stats.json"}


@pytest.mark.usefixtures("s3")
def test_shards_in_an_object_store_are_those_on_disk_also_after_a_kill(media, built, tmp_path):
    address = f"s3://bucket/{tmp_path.name}"
    (tmp_path / "temporary").mkdir()
    env = {"TMPDIR": str(tmp_path / "temporary")}
    first = start(media, address, "processes=2", env=env)
    folder = open_folder(address)
    wait(lambda: len(folder.sizes("train-*.json")) >= 2)
    first.kill()
    first.communicate()
    wait(lambda: not running(first))
    assert "manifest.json" not in folder.sizes()
    done = build(media, address, "processes=2", env=env)
    assert done.returncode == 0 and f"{address} is complete" in done.stdout, done.stderr
    assert _remote_contents(address) == built
    assert not [path for path in (tmp_path / "temporary").iterdir() if not path.name.startswith("pymp-")]
    again = build(media, address, "processes=2", env=env)
    assert again.returncode == 0 and again.stdout == done.stdout


@pytest.mark.usefixtures("s3")
def test_slices_share_an_object_store(media, built, tmp_path):
    address = f"s3://bucket/{tmp_path.name}"
    slices = [start(media, address, "executor=slice", f"slice={part}/2") for part in (0, 1)]
    for process in slices:
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    assert build(media, address, "executor=slice", "slice=finish").returncode == 0
    assert _remote_contents(address) == built


def test_an_address_of_this_machine_is_a_local_folder(media, built, tmp_path):
    assert build(media, f"file://{tmp_path}/out").returncode == 0
    assert contents(tmp_path / "out") == built


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("s3://no-such-bucket/set", 2, "s3://no-such-bucket/set cannot be written, is there such a bucket"),
        ("foo://x", 2, "foo://x: Protocol not known: foo"),
        ("gs://bucket/set", 2, "gs://bucket/set: Please install gcsfs"),
    ],
)
def test_an_address_that_cannot_be_written_is_one_clear_line(media, address, code, said):
    done = build(media, address)
    assert done.returncode == code and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("s3")
def test_a_store_that_does_not_answer_is_one_clear_line(media):
    done = build(media, "s3://bucket/set", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    assert done.returncode == 1 and "http://127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_store_lost_in_the_middle_ends_the_build_in_one_line_and_no_process_stays(tmp_path):
    long_media = write_long_media(tmp_path)
    with serve_s3("bucket") as environment:
        process = start(long_media, "s3://bucket/set", env={**environment, "AWS_MAX_ATTEMPTS": "1"})
        time.sleep(1.5)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in told
    assert re.search(r"^error: s3://bucket/set.*run the same command again$", told, re.MULTILINE), told
    wait(lambda: not running(process))
