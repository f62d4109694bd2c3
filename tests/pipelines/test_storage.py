"""Local and remote folders behave alike: a path, file://, memory://, and an S3 server on loopback."""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from paths import ROOT
from tiny_s3 import serve_s3

from configs.errors import CommandFailed, UsageError
from pipelines.storage import LocalFolder, RemoteFolder, open_folder, read


@pytest.fixture(scope="module")
def s3():
    """The address of a bucket; endpoint and credentials are in the environment."""
    with serve_s3("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        yield "s3://bucket"


@pytest.fixture(params=["local", "file", "memory", "s3"])
def folder(request, tmp_path, monkeypatch):
    address = {
        "local": lambda: tmp_path / "set",
        "file": lambda: f"file://{tmp_path}/set",
        "memory": lambda: f"memory://{tmp_path.name}",
        "s3": lambda: f"{request.getfixturevalue('s3')}/{tmp_path.name}",
    }[request.param]()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # after the server, which writes a log there
    folder = open_folder(str(address))
    folder.create()
    return folder


def _write(folder, name, data):
    with folder.atomic_open(name) as file:
        file.write(data)


def test_missing_folder_is_empty(tmp_path, s3):
    for address in (tmp_path / "no", f"memory://{tmp_path.name}/no", f"{s3}/{tmp_path.name}/no"):
        folder = open_folder(str(address))
        assert folder.sizes() == {}
        folder.remove("a")
        folder.remove_leftovers()
        with pytest.raises(FileNotFoundError):
            read(folder, "a")


def test_file_appears_only_when_complete(folder):
    assert folder.sizes() == {}
    with folder.atomic_open("a.tar") as file:
        file.write(b"half")
        assert folder.sizes() == {}
        file.write(b" and half")
    assert folder.sizes() == {"a.tar": 13} and read(folder, "a.tar") == b"half and half"
    _write(folder, "a.tar", b"other")
    assert folder.sizes() == {"a.tar": 5} and read(folder, "a.tar") == b"other"


@pytest.mark.parametrize("earlier", [b"", b"earlier content"])
def test_error_while_writing_leaves_the_earlier_file(folder, tmp_path, earlier):
    if earlier:
        _write(folder, "a", earlier)
    with pytest.raises(KeyboardInterrupt), folder.atomic_open("a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert folder.sizes() == ({"a": len(earlier)} if earlier else {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a"]


def test_sizes_by_pattern_and_of_one_file(folder):
    _write(folder, "train-000000.tar", b"12345")
    _write(folder, "train-000000.json", b"{}")
    assert folder.sizes("*.tar") == {"train-000000.tar": 5}
    assert folder.sizes() == {"train-000000.tar": 5, "train-000000.json": 2}
    assert folder.size_bytes("train-000000.json") == 2
    for missing in (folder.size_bytes, folder.open):
        with pytest.raises(FileNotFoundError):
            missing("train-000001.tar")


def test_file_is_seekable(folder):
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


def test_large_file_is_uploaded_in_parts_and_read_back_unchanged(s3, tmp_path):
    folder = open_folder(f"{s3}/{tmp_path.name}")
    data = os.urandom(1 << 20) * 110  # s3fs uploads in parts from 100 MiB on
    _write(folder, "large", data)
    assert folder.size_bytes("large") == len(data) and read(folder, "large") == data


def test_removing_a_file_twice_is_allowed(folder):
    _write(folder, "a", b"1")
    _write(folder, "b", b"1")
    folder.remove("a")
    folder.remove("a")
    assert folder.sizes() == {"b": 1}


def test_scratch_folder_is_deleted_at_the_end_of_its_block(folder):
    with folder.scratch() as scratch:
        (Path(scratch) / "rows.jsonl").write_text("text")
        assert folder.sizes() == {}
    assert not Path(scratch).exists()


def test_only_leftovers_of_killed_writers_are_removed(folder, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipelines.storage import open_folder\n"
        "folder = open_folder(sys.argv[1])\n"
        "with folder.scratch() as scratch, folder.atomic_open('train-000000.tar') as file:\n"
        "    (Path(scratch) / 'rows.jsonl').write_text('rows')\n"
        "    file.write(b'half'), file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    address = f"file://{folder}" if isinstance(folder, LocalFolder) else str(folder)
    env = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    assert subprocess.run([sys.executable, "-c", code, address], cwd=ROOT, env=env).returncode == -9
    _write(folder, "train-000001.tar", b"12345")
    assert list(tmp_path.rglob("rows.jsonl")) and folder.sizes() == {"train-000001.tar": 5}
    (Path(tempfile.gettempdir()) / "build-notes").write_text("a file of another program")
    folder.remove_leftovers()
    assert folder.sizes() == {"train-000001.tar": 5}
    assert {path.name for path in tmp_path.rglob("*")} - {"temporary", "set", "train-000001.tar"} == {"build-notes"}


def test_scratch_folder_in_use_is_not_removed_as_a_leftover(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = open_folder(f"{s3}/{tmp_path.name}")
    with folder.scratch() as scratch:
        open_folder(f"{s3}/{tmp_path.name}").remove_leftovers()
        assert Path(scratch).is_dir()


def test_unfinished_files_of_killed_writers_are_removed_where_uploads_are_renamed(tmp_path):
    # a wrapper, whose protocol is not that of an object store
    folder = RemoteFolder(f"simplecache::memory://{tmp_path.name}")
    folder.create()
    _write(folder, "a", b"1")
    plain = RemoteFolder(f"memory://{tmp_path.name}")
    _write(plain, ".b.host-1.tmp", b"half")
    assert plain.sizes() == {"a": 1}
    plain.remove_leftovers("b*")
    with pytest.raises(FileNotFoundError):
        plain.size_bytes(".b.host-1.tmp")
    assert read(plain, "a") == b"1"


def test_pickled_folder_is_the_same_folder_in_another_directory(folder, tmp_path, monkeypatch):
    _write(folder, "a", b"1")
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(open_folder("set") if isinstance(folder, LocalFolder) else folder)
    monkeypatch.chdir("/")
    assert read(pickle.loads(sent), "a") == b"1"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("foo://x", "foo://x: Protocol not known: foo"),
        ("gs://bucket/x", "gs://bucket/x: Please install gcsfs"),
        ("abfs://c/x", "Install adlfs"),
    ],
)
def test_unsupported_address_is_a_usage_error(address, expected):
    with pytest.raises(UsageError, match=expected):
        open_folder(address)


@pytest.mark.usefixtures("s3")
def test_missing_bucket_is_a_usage_error_and_is_not_created():
    folder = open_folder("s3://no-such-bucket/set")
    with pytest.raises(UsageError, match="out=s3://no-such-bucket/set is not writable; does the bucket exist"):
        folder.create()
    with pytest.raises(UsageError):
        open_folder("s3://no-such-bucket/set").create()
    assert folder.sizes() == {}


@pytest.mark.usefixtures("s3")
def test_unreachable_store_is_a_one_line_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # 10 s for each attempt without it
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    folder = open_folder("s3://bucket/set")
    for attempt in (folder.create, folder.sizes, lambda: read(folder, "a")):
        with pytest.raises(CommandFailed, match=r"s3://bucket/set.*127.0.0.1:9.*run the same command again") as raised:
            attempt()
        assert "\n" not in str(raised.value)
    s3fs.S3FileSystem.clear_instance_cache()


def test_scratch_folder_deleted_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, deleted = RemoteFolder(f"memory://{tmp_path.name}"), []

    class DeletedFirst(tempfile.TemporaryDirectory):
        def __init__(self, prefix):
            super().__init__(prefix=prefix)
            if not deleted:
                deleted.append(self.name)
                folder.remove_leftovers()

    monkeypatch.setattr(tempfile, "TemporaryDirectory", DeletedFirst)
    with folder.scratch() as scratch:
        assert Path(scratch).is_dir() and scratch not in deleted
    assert not list(tmp_path.iterdir())
