"""Hostile or damaged third-party tars are rejected in one line, with little memory, and nothing is written."""

import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from tiny_foreign_shards import (
    BEGIN,
    CLIP,
    END,
    ROOT,
    files,
    index_shards,
    member_bytes,
    npy,
    sample,
    special,
    write_samples,
    write_tar,
)
from tiny_shards import jpeg


def raw(name: str, size: int, kind: bytes = tarfile.REGTYPE, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A header with any stated size, without data."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(form)


def pax(**headers: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("x.jpg")
    member.pax_headers = headers
    return member


# name -> (members after those of a good clip, or the bytes of the whole file; part of the error message)
HOSTILE = {
    "symbolic link": ([(special("1.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], "1.jpg is a link"),
    "hard link": ([(special("1.jpg", tarfile.LNKTYPE, "0.jpg"), b"")], "1.jpg is a link"),
    "device": ([(special("1.jpg", tarfile.CHRTYPE), b"")], "1.jpg is a link, a device"),
    "pipe": ([(special("1.jpg", tarfile.FIFOTYPE), b"")], "1.jpg is a link, a device"),
    "absolute name": (
        [("/etc/cron.d/x.jpg", b"x")],
        "a name that points outside the folder or is not text, or a size below 0: '/etc/cron.d/x.jpg'",
    ),
    "name outside the folder": (
        [("a/../../x.jpg", b"x")],
        "points outside the folder or is not text, or a size below 0: 'a/../../x.jpg'",
    ),
    "name outside the folder, not indexed": ([("../x.mp4", b"x")], "points outside"),
    "name of two lines": ([("a\nb.jpg", b"x")], "is not text, or a size below 0: 'a\\nb.jpg'"),
    "name that clears the screen": ([("\x1b[2J.jpg", b"x")], "is not text"),
    "name with a NUL": ([(pax(path="a\0b.jpg"), b"x")], "is not text"),
    "name that is no UTF-8": (BEGIN + raw("\udcff.jpg", 0) + END, "is not text"),
    "name without end": ([(pax(path="x" * 5000 + ".jpg"), b"x")], "points outside the folder or is not text"),
    "size beyond the file": (BEGIN + raw("1.jpg", 10**6) + END, "is not a readable tar: unexpected end of data"),
    "size of 8 EiB": (BEGIN + raw("1.jpg", 1 << 63) + END, f"1.jpg has {1 << 63} bytes, more than max_member_mb=64"),
    "size of 8 EiB, not indexed": (BEGIN + raw("1.mp4", 1 << 63) + END, "is not a readable tar: "),
    "size below 0": (BEGIN + raw("1.jpg", -1) + END, "size below 0"),
    "size that leads back": (BEGIN + raw("1.jpg", -2048) + END, "size below 0"),
    "member over the limit": ([("1.png", bytes(65 * 10**6))], "1.png has 65000000 bytes, more than max_member_mb=64"),
    "sparse file": (BEGIN + raw("1.jpg", 0, tarfile.GNUTYPE_SPARSE) + END, "a sparse file"),
    "sparse file of PAX": (
        [(pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}), b"1\n0\n1\n")],
        "a sparse file",
    ),
    "PAX header of a gigabyte": (BEGIN + raw("x", 1 << 30, tarfile.XHDTYPE) + END, "a header of 1073741824 bytes"),
    "long name of a gigabyte": (
        BEGIN + raw("x", 1 << 30, tarfile.GNUTYPE_LONGNAME) + END,
        "a header of 1073741824 bytes",
    ),
    "headers without end": (
        (raw("x", 100, tarfile.XHDTYPE) + b"20 comment=aaaaaaaa\n".ljust(512, b"\0")) * 3000 + END,
        "is not a readable tar: ",
    ),
    "gzip": ("gz", "it is compressed (gzip)"),
    "bzip2": ("bz2", "it is compressed (bzip2)"),
    "xz": ("xz", "it is compressed (xz)"),
    "no tar": (b"text " * 3000, "is not a readable tar"),
    "empty file": (b"", "is not a readable tar: empty file"),
    "truncated in data": (BEGIN[:-600], "is not a readable tar: unexpected end of data"),
    "truncated in a header": (BEGIN + BEGIN[:300], "are not a member: it is damaged there, truncated"),
    "truncated between members": (BEGIN, "it is truncated at byte"),
    "damaged header in the middle": (BEGIN + b"\xff" * 512 + BEGIN + END, "are not a member: it is damaged there"),
    "two tars joined": (BEGIN + END + BEGIN + END, "or several tars in one file"),
    "pickle": ([("1.jpg", jpeg(1)), ("1.pkl", pickle.dumps(1))], "1.pkl may be a pickle, which runs code"),
    "pickle in capitals": ([("1.target.PYD", b"x")], "1.target.PYD may be a pickle"),
    "array of objects": (
        [("1.npy", npy(np.array([{}], dtype=object)))],
        "1.npy holds Python objects, that is a pickle",
    ),
    "array of objects in a structure": (
        [("1.npy", npy(np.zeros(1, [("a", "f4"), ("b", "O")])))],
        "1.npy holds Python objects",
    ),
    "pickle called an array": ([("1.npy", pickle.dumps([1]))], "1.npy is not an array that NumPy writes"),
    "array with code in its header": (
        [("1.npy", b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('x')   \n")],
        "1.npy is not an array that NumPy writes",
    ),
    "array nested without end": (
        [("1.npy", b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000)],
        "1.npy is not an array that NumPy writes",
    ),
    "member twice": ([("1.jpg", b"x"), ("1.JPG", b"y")], "1.JPG occurs twice"),
    "members apart": (
        [("1.jpg", b"x"), ("2.jpg", b"x"), ("1.flac", b"x")],
        "the members of 1 are not consecutive",
    ),
    "keys with dots": (
        [(f"a.{n}.jpg", b"x") for n in range(10_001)],
        "; a key ends at the first dot of a name, so it cannot contain one",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_or_damaged_tar_is_rejected_in_one_line_and_nothing_is_written(tmp_path, capsys, kind):
    content, message = HOSTILE[kind]
    write_tar(tmp_path / "a/00000.tar", CLIP)
    path = tmp_path / "a/00001.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        with tarfile.open(path, f"w:{content}") as tar:
            tar.addfile(tarfile.TarInfo("x.jpg"))
    else:
        write_tar(path, [*CLIP, *content])
    code, out, error = index_shards(tmp_path / "a", capsys)
    assert (code, out) == (1, "")
    assert len(error.splitlines()) == 1 and error.isprintable() and len(error) < 700
    assert message in error and str(tmp_path / "a") in error
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"00000.tar", "00001.tar"}


def test_rejected_tar_leaves_an_earlier_index_unchanged(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    assert index_shards(folder, capsys)[0] == 0
    before = files(folder)
    write_tar(folder / "00001.tar", [*CLIP, ("1.pkl", b"x")])
    assert index_shards(folder, capsys)[0] == 1
    assert {k: v for k, v in files(folder).items() if k != "00001.tar"} == before


@pytest.mark.parametrize("name", ["../x", "a b", ".hidden", "ü", "manifest", "stats", "a\nb"])
def test_shard_with_an_invalid_name_is_rejected(tmp_path, capsys, name):
    write_tar(tmp_path / "a" / f"{name.replace('../', '..')}.tar", CLIP)
    code, _, error = index_shards(tmp_path / "a", capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "rename or remove it" in error


def test_size_limit_is_a_setting_and_ignores_skipped_members(tmp_path, capsys):
    write_tar(tmp_path / "a/0.tar", [*CLIP, ("0.mp4", bytes(200_000))])
    assert index_shards(tmp_path / "a", capsys, "max_member_mb=0.1")[0] == 0
    code, _, error = index_shards(tmp_path / "a", capsys, "max_member_mb=0.001")
    assert code == 1 and "more than max_member_mb=0.001" in error


def test_randomly_corrupted_tars_are_rejected_or_indexed_without_a_crash(tmp_path, capsys):
    rng = np.random.default_rng(0)
    good = bytearray(member_bytes(("a.jpg", b"1"), ("ü" * 150 + ".json", b"2"), ("b.npy", npy(np.zeros(3)))) + END)
    (tmp_path / "a").mkdir()
    codes = []
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(len(good) - 9000, size=rng.integers(1, 6)):
            data[at] = rng.integers(256)
            header = at - at % 512
            if rng.random() < 0.7:  # with a matching checksum, so that it is parsed
                data[header + 148 : header + 156] = b" " * 8
                data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
        (tmp_path / "a/0.tar").write_bytes(data)
        code, _, error = index_shards(tmp_path / "a", capsys)
        assert len(error.splitlines()) == (code > 0)
        codes.append(code)
    assert {*codes} == {0, 1}


def test_hostile_tar_takes_little_memory(tmp_path):
    one = (
        raw("x", 100_000, tarfile.XHDTYPE) + b"99999 comment=".ljust(100_352, b"a")
    ) * 400  # a hundred of them before one member
    many = b"".join(
        raw("x", 100_000, tarfile.XGLTYPE)
        + (b"99999 k%06d=" % n).ljust(99_998, b"a")
        + b"\n".ljust(354, b"\0")
        + raw(f"{n}.jpg", 0)
        for n in range(400)
    )
    sparse = raw("1.jpg", 0, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29)
    sparse = (
        sparse[:148]
        + b"%06o\0 " % (sum(sparse) - sum(sparse[148:156]) + 8 * 32)
        + sparse[156:]
        + b"00000000001 " * 42
        + b"\1" * 8
    )
    script = "import sys; from pipelines.stream.index_foreign import index_foreign_shards\n"
    script += "try: index_foreign_shards(sys.argv[1], 64)\nexcept RuntimeError as e: print(e)\n"
    script += "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    for kind, data in {
        "one": one,
        "many": many,
        "sparse": sparse + (b"00000000001 " * 42 + b"\1" * 8) * 40_000,
    }.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.tar").write_bytes(data + END)
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / kind)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        message, peak_kib = done.stdout.splitlines()
        assert "is not a readable tar" in message
        assert int(peak_kib) < 250_000
