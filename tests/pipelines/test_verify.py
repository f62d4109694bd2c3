"""Verify finds every damage we could think of, each told in a line of its own, and nothing in a whole data set."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
from paths import ROOT
from tiny_media import write_video

from configs.errors import UsageError
from configs.schema import VerifyConfig
from pipelines.verify import main

TAR, INDEX = "train-000001.tar", "train-000001.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two shards of three rows each, one row rejected."""
    root = tmp_path_factory.mktemp("data")
    first = write_video(root / "media/0.mp4", duration_s=0.6, events_s=(0.3,))
    for number in range(1, 6):
        shutil.copy(first, root / f"media/{number}.mp4")
    (root / "media/2.mp4").write_bytes(b"")
    arguments = [
        f"source.root={root / 'media'}",
        f"out={root / 'out'}",
        "clips_per_shard=3",
        "decode.frames_per_clip=2",
    ]
    subprocess.run([sys.executable, "-m", "pipelines.build", *arguments], cwd=ROOT, check=True, capture_output=True)
    return root / "out"


@pytest.fixture
def out(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "out"))


def verify(out: Path, capsys) -> tuple[int, list[str]]:
    code = main(VerifyConfig(), str(out))
    return code, [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith(("shards ", "clips ", "damages "))
    ]


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


def _rewrite(
    out: Path, members=slice(None), more: tuple[tarfile.TarInfo, ...] = (), form: int = tarfile.USTAR_FORMAT
) -> None:
    """Write some of the tar's members anew, and more, and state the result everywhere."""
    with tarfile.open(out / TAR) as old, tarfile.open(out / "new", "w", format=form) as new:
        for member in (*old.getmembers()[members], *more):
            new.addfile(member, old.extractfile(member) if member.offset_data else io.BytesIO(bytes(member.size)))
    (out / "new").replace(out / TAR)
    _restate(out)


def _member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "", 0
    return member


def _hostile_name(name: str):
    return lambda out: _edit(out / "manifest.json", lambda m: m["shards"][0].update(name=name))


def _first_name(out: Path) -> str:
    with tarfile.open(out / TAR) as tar:
        return tar.next().name


DAMAGES = {
    "no manifest": (
        lambda out: (out / "manifest.json").unlink(),
        "manifest.json is missing: the data set is unfinished",
    ),
    "broken manifest": (
        lambda out: os.truncate(out / "manifest.json", 50),
        "manifest.json is not a manifest of shards",
    ),
    "rows lost": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(rows=9)),
        "9 rows are not 5 written + 1 rejected",
    ),
    "clips lost": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(written=4, rows=5)),
        "its shards have 5 clips, not the 4 written",
    ),
    "tar missing": (lambda out: (out / TAR).unlink(), f"{TAR} is missing"),
    "tar cut by one byte": (lambda out: os.truncate(out / TAR, (out / TAR).stat().st_size - 1), f"{TAR} has "),
    "tar cut at half": (lambda out: os.truncate(out / TAR, 4096), f"{TAR} has 4096 bytes"),
    "tar grown": (lambda out: (out / TAR).write_bytes((out / TAR).read_bytes() + b"x"), f"{TAR} has "),
    "bit flipped in data": (lambda out: _flip(out / TAR, 5000), f"{TAR} has another SHA-256"),
    "index missing": (lambda out: (out / INDEX).unlink(), f"{INDEX} cannot be read"),
    "index broken": (lambda out: os.truncate(out / INDEX, 100), f"{INDEX} cannot be read"),
    "index of another tar": (
        lambda out: _edit(out / INDEX, lambda i: i.update(sha256="0")),
        f"{INDEX} and manifest.json differ in sha256",
    ),
    "index short of a clip": (
        lambda out: _edit(out / INDEX, lambda i: i["members"].pop()),
        "clips, manifest.json says",
    ),
    "offset wrong": (
        lambda out: _edit(out / INDEX, lambda i: i["members"][0]["files"].update(json=[0, 5])),
        f"{INDEX} puts ",
    ),
    "member lost": (lambda out: _rewrite(out, slice(-1)), f"{TAR} lacks "),
    "member too many": (
        lambda out: _rewrite(out, more=(_member("../../x.jpg"),)),
        f"{TAR} has ../../x.jpg, which {INDEX} does not list",
    ),
    "member twice": (lambda out: _rewrite(out, more=(_member(_first_name(out)),)), ".json twice"),
    "link in the tar": (
        lambda out: _rewrite(out, more=(_member("x.jpg", tarfile.SYMTYPE),)),
        f"{TAR} has x.jpg, which is no plain file",
    ),
    "name that moves the cursor": (
        lambda out: _rewrite(out, more=(_member("\x1b[2Jx.jpg"),)),
        f"{TAR} has \\x1b[2Jx.jpg",
    ),
    "text instead of a tar": (
        lambda out: ((out / TAR).write_text("text" * 500), _restate(out)),
        f"{TAR} is no readable tar",
    ),
    "empty tar": (lambda out: ((out / TAR).write_bytes(b""), _restate(out)), f"{TAR} is no readable tar"),
    "header too large": (
        lambda out: _rewrite(out, more=(_member("x" * (2 << 20)),), form=tarfile.GNU_FORMAT),
        f"{TAR} is no readable tar: a header of 2097153 bytes",
    ),
    "id twice": (lambda out: _edit(out / INDEX, lambda i: i["members"].append(i["members"][0])), "is used twice"),
    "stranger": (
        lambda out: shutil.copy(out / TAR, out / "train-000009.tar"),
        "train-000009.tar is not in manifest.json",
    ),
    "id that leads out": (
        lambda out: _edit(out / INDEX, lambda i: i["members"][0].update(id="../x")),
        "'../x' is no id",
    ),
    "id of another shard": (
        lambda out: _edit(
            out / INDEX,
            lambda i: i["members"][0].update(
                id=json.loads((out / "train-000000.json").read_text())["members"][0]["id"]
            ),
        ),
        "is used twice, in train-000000.json and train-000001.json",
    ),
    "index is a list": (
        lambda out: (out / INDEX).write_text("[]"),
        f"{INDEX} cannot be read: not what pipelines.build writes",
    ),
    "index is nested without end": (
        lambda out: (out / INDEX).write_text("[" * 100_000),
        f"{INDEX} cannot be read: RecursionError",
    ),
    "index is no text": (
        lambda out: (out / INDEX).write_bytes(b"\xff\x00\xfe"),
        f"{INDEX} cannot be read: UnicodeDecodeError",
    ),
    "members are no list": (
        lambda out: _edit(out / INDEX, lambda i: i.update(members=7)),
        f"{INDEX} cannot be read: not what",
    ),
    "id is a number": (lambda out: _edit(out / INDEX, lambda i: i["members"][0].update(id=7)), "7 is no id"),
    "offset is text": (
        lambda out: _edit(out / INDEX, lambda i: i["members"][0]["files"].update(json=["0", 5])),
        "offset and size of ",
    ),
    "rejected row without reason": (
        lambda out: [_edit(f, lambda i: i.update(rejected=[{"id": "x"}])) for f in [out / INDEX]],
        "KeyError 'reason'",
    ),
    "states of media missing": (
        lambda out: _edit(out / INDEX, lambda i: i.pop("media_of_rejected")),
        "KeyError 'media_of_rejected'",
    ),
    "state of media nobody rejected": (
        lambda out: _edit(out / INDEX, lambda i: i.update(media_of_rejected={"x": "1"})),
        "media_of_rejected knows x",
    ),
    "manifest is a list": (
        lambda out: (out / "manifest.json").write_text("[]"),
        "is not a manifest of shards: it has no list of shards",
    ),
    "counts are text": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(rows="6")),
        "is not a manifest of shards: rows is '6'",
    ),
    "counts are below zero": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(rejected=-1)),
        "rejected is -1",
    ),
    "shards are names": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(shards=["x"])),
        "no file can have the name of its shard 'x'",
    ),
    "shard without a hash": (
        lambda out: _edit(out / "manifest.json", lambda m: m["shards"][0].pop("sha256")),
        "clips, size_bytes or sha256 of",
    ),
    "shard outside": (_hostile_name("../x"), "no file can have the name of its shard"),
    "shard anywhere": (_hostile_name("/etc/passwd"), "no file can have the name of its shard"),
    "shard twice": (
        lambda out: _edit(out / "manifest.json", lambda m: m["shards"].append(m["shards"][0])),
        "is used twice",
    ),
    "fingerprint of other shards": (
        lambda out: _edit(out / "manifest.json", lambda m: m.update(fingerprint="0")),
        "its fingerprint is not",
    ),
    "statistics missing": (lambda out: (out / "stats.json").unlink(), "stats.json cannot be read"),
    "statistics changed": (
        lambda out: _edit(out / "stats.json", lambda s: s.update(rejected={})),
        "stats.json is not what",
    ),
    "ledger missing": (lambda out: (out / "rejected.jsonl").unlink(), "rejected.jsonl cannot be read"),
    "ledger cut": (
        lambda out: os.truncate(out / "rejected.jsonl", 0),
        "rejected.jsonl has 0 lines, manifest.json says 1",
    ),
    "ledger changed": (
        lambda out: (out / "rejected.jsonl").write_text('{"id": "x", "reason": "missing", "detail": ""}\n'),
        "rejected.jsonl is not what the indices",
    ),
}


def test_what_killed_writers_left_is_no_damage(out, capsys):
    (out / f".{TAR}.host-1.tmp").write_bytes(b"half a tar")
    (out / ".manifest.json.tmp").write_bytes(b"{")
    (out / ".scratch-abc").mkdir()
    (out / ".scratch-abc" / "other.tar").write_bytes(b"x")
    assert verify(out, capsys) == (0, [])


def test_a_data_set_of_the_first_format_knew_no_states_of_media(out, capsys):
    for index in out.glob("train-*.json"):
        _edit(index, lambda i: i.pop("media_of_rejected"))
    _edit(out / "manifest.json", lambda m: m.update(format=1))
    assert verify(out, capsys) == (0, [])


def test_many_damages_come_in_the_same_order_each_time_and_are_counted(out, capsys):
    (out / "train-000000.tar").unlink()
    _flip(out / TAR, 5000)
    _edit(out / INDEX, lambda i: i["members"].append(i["members"][0]))
    (out / "rejected.jsonl").unlink()
    told = [verify(out, capsys) for _ in range(3)]
    assert told[0] == told[1] == told[2]
    assert [line.split()[0] for line in told[0][1]] == ["train-000000.tar", INDEX, TAR, "rejected.jsonl", "the"]


def test_a_shard_that_is_wrong_everywhere_is_told_in_twenty_lines(out, capsys):
    (out / TAR).write_bytes((out / "train-000000.tar").read_bytes())
    _edit(out / INDEX, lambda i: i["members"][0]["files"].update({f"{n}.npy": [0, 5] for n in range(100)}))
    _, lines = verify(out, capsys)
    assert len(lines) < 30 and any("more damages of train-000001" in line for line in lines)


def test_of_what_an_index_rejected_nothing_is_claimed_where_it_cannot_be_read(out, capsys):
    (out / INDEX).unlink()
    code, lines = verify(out, capsys)
    assert code == 1 and [line.split(":")[0] for line in lines] == [f"{INDEX} cannot be read"]


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


@pytest.mark.parametrize("address", ["{}/none", "file://{}/none", "memory://{}/none", "{}/out/manifest.json"])
def test_a_folder_that_is_not_there_is_a_wrong_use(out, address):
    with pytest.raises(UsageError, match="no such folder of shards"):
        main(VerifyConfig(), address.format(out.parent))


def test_a_folder_without_shards_is_a_wrong_use_and_nobody_is_told_to_remove_files(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no folder of shards, there is neither manifest\.json nor a \.tar in it"):
        main(VerifyConfig(), str(tmp_path))


def test_an_address_nothing_reaches_is_a_wrong_use():
    with pytest.raises(UsageError, match="nosuch"):
        main(VerifyConfig(), "nosuch://bucket/train")


def test_a_folder_of_another_file_system_is_read_like_a_local_one(out, capsys):
    fs = fsspec.filesystem("memory")
    fs.put(f"{out}/", "/verify", recursive=True)
    assert main(VerifyConfig(threads=3), "memory://verify") == 0
    assert main(VerifyConfig(), f"file://{out}") == 0
    for kept in (0, 1000, 5000, (out / TAR).stat().st_size - 1):
        fs.pipe(f"/verify/{TAR}", (out / TAR).read_bytes()[:kept])
        assert main(VerifyConfig(), "memory://verify") == 1
    fs.rm(f"/verify/{TAR}")
    capsys.readouterr()
    assert main(VerifyConfig(), "memory://verify") == 1
    assert f"{TAR} is missing" in capsys.readouterr().out


def test_a_large_tar_is_never_in_memory_as_a_whole(out):
    with tarfile.open(out / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("x.jpg")
        member.size = 1 << 28
        with open("/dev/zero", "rb") as zeros:  # noqa: PTH123
            tar.addfile(member, zeros)
    code = "import sys; from configs.schema import VerifyConfig; from pipelines.verify import main; main(VerifyConfig(), sys.argv[1]); "
    code += "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, capture_output=True, text=True)
    assert f"{TAR} has x.jpg, which" in done.stdout
    assert int(done.stdout.split()[-1]) < 150_000  # KiB


def test_the_command_exits_with_0_1_and_2(out):
    def code(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pipelines.verify", *arguments], cwd=ROOT, capture_output=True
        ).returncode

    assert code(str(out)) == 0
    (out / TAR).unlink()
    assert code(str(out)) == 1
    assert code() == 2
