"""Archives are unpacked beside themselves, and hostile ones write nothing outside."""

import io
import stat
import tarfile
import zipfile

import pytest

from configs.errors import CommandFailed
from pipelines.download.unpack import unpack

FILES = {"set/a.txt": b"a" * 5000, "set/deep/b.txt": b"b" * 7}


def _zip(path, files=FILES, **info):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            for key, value in info.items():
                setattr(member, key, value)
            archive.writestr(member, content)
    return path


def _tar(path, mode="w:gz", files=FILES, members=()):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def _contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: _zip(path / "a.zip"),
        lambda path: _tar(path / "a.tar", "w"),
        lambda path: _tar(path / "a.tar.gz", "w:gz"),
        lambda path: _tar(path / "a.tar.bz2", "w:bz2"),
        lambda path: _tar(path / "a.tar.xz", "w:xz"),
    ],
    ids=["zip", "tar", "gz", "bz2", "xz"],
)
def test_archive_is_unpacked_beside_itself_and_again_after_an_interruption(tmp_path, make):
    archive = make(tmp_path)
    assert unpack(archive) == 5007
    archive_bytes = archive.read_bytes()
    assert _contents(tmp_path) == FILES | {archive.name: archive_bytes}
    (tmp_path / "set/a.txt").write_bytes(b"half")
    kept = (tmp_path / "set/deep/b.txt").stat().st_mtime_ns
    unpack(archive)
    assert _contents(tmp_path) == FILES | {archive.name: archive_bytes}
    assert ((tmp_path / "set/deep/b.txt").stat().st_mtime_ns == kept) == (archive.suffix == ".zip")
    (tmp_path / "set/deep/b.txt").write_bytes(b"changed")
    unpack(archive)
    assert _contents(tmp_path) == FILES | {archive.name: archive_bytes}


def _link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _device(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


HOSTILE = {
    "zip-parent": lambda path: _zip(path / "a.zip", {"../out.txt": b"x"}),
    "zip-absolute": lambda path: _zip(path / "a.zip", {"/tmp/out.txt": b"x"}),
    "zip-backslash": lambda path: _zip(path / "a.zip", {"..\\out.txt": b"x"}),
    "zip-link": lambda path: _zip(path / "a.zip", {"link": b"/etc"}, external_attr=(stat.S_IFLNK | 0o777) << 16),
    "tar-parent": lambda path: _tar(path / "a.tar", "w", {"../out.txt": b"x"}),
    "tar-link": lambda path: _tar(path / "a.tar", "w", {}, [_link("link", "../../")]),
    "tar-absolute-link": lambda path: _tar(path / "a.tar", "w", {}, [_link("link", "/etc")]),
    "tar-hard-link": lambda path: _tar(path / "a.tar", "w", {}, [_link("link", "../secret.txt", tarfile.LNKTYPE)]),
    "tar-device": lambda path: _tar(path / "a.tar", "w", {}, [_device("null")]),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_written_outside_the_target(tmp_path, make):
    target = tmp_path / "data"
    target.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    archive = make(target)
    with pytest.raises(CommandFailed, match=r"a\.(zip|tar)"):
        unpack(archive)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "secret.txt"}
    assert {path.name for path in target.iterdir()} == {archive.name}


def test_link_that_lies_in_the_target_is_not_followed_out_of_it(tmp_path):
    target, outside = tmp_path / "data", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (target / "set").symlink_to(outside)
    for archive in (_zip(target / "a.zip"), _tar(target / "a.tar", "w")):
        with pytest.raises(CommandFailed, match="outside"):
            unpack(archive)
    assert not list(outside.iterdir())


def test_bomb_and_damage_and_other_files_are_refused_in_one_line(tmp_path):
    bomb = tmp_path / "bomb.zip"
    data = bytearray(_zip(bomb, {"zeros": bytes(1000)}).read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # the size that the directory of the archive states
    data[at : at + 4] = (2_000_000_000).to_bytes(4, "little")
    bomb.write_bytes(data)
    with pytest.raises(CommandFailed, match="0 MB and unpacks to 2 GB"):
        unpack(bomb)
    assert not (tmp_path / "zeros").exists()
    damaged = _tar(tmp_path / "a.tar.gz", files={"a": bytes(range(256)) * 1000})
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(CommandFailed, match="cannot be unpacked"):
        unpack(damaged)
    for name, mode in (("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.tar.bz2", "w:bz2")):
        damaged = _tar(tmp_path / name, mode, files={"b": bytes(range(256)) * 1000})
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
        damaged.write_bytes(data)
        with pytest.raises(CommandFailed, match=r"cannot be unpacked|is damaged|neither a zip"):
            unpack(damaged)
    (tmp_path / "page.zip").write_text("hello")
    with pytest.raises(CommandFailed, match="neither a zip nor a tar archive"):
        unpack(tmp_path / "page.zip")
