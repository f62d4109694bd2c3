"""Damage of every kind to a data set is reported by verify."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from tiny_verify import INDEX, TAR, edit_json, flip_bit, verify


def _restate(out: Path) -> None:
    """Update size and hash of the tar in index and manifest, as a careless repair would."""
    data = (out / TAR).read_bytes()
    new = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_json(out / INDEX, lambda index: index.update(new))
    edit_json(out / "manifest.json", lambda manifest: manifest["shards"][1].update(new))


def _rewrite(
    out: Path, members=slice(None), more: tuple[tarfile.TarInfo, ...] = (), form: int = tarfile.USTAR_FORMAT
) -> None:
    """Rewrite the tar with some of its members and `more`, and update index and manifest."""
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
    return lambda out: edit_json(out / "manifest.json", lambda m: m["shards"][0].update(name=name))


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
    "wrong count of rows": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(rows=9)),
        "rows=9, but written + rejected = 5 + 1",
    ),
    "wrong count of clips": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(written=4, rows=5)),
        "its shards have 5 clips, but written=4",
    ),
    "tar missing": (lambda out: (out / TAR).unlink(), f"{TAR} is missing"),
    "tar truncated by one byte": (lambda out: os.truncate(out / TAR, (out / TAR).stat().st_size - 1), f"{TAR} has "),
    "tar truncated at half": (lambda out: os.truncate(out / TAR, 4096), f"{TAR} has 4096 bytes"),
    "tar with trailing bytes": (lambda out: (out / TAR).write_bytes((out / TAR).read_bytes() + b"x"), f"{TAR} has "),
    "bit flipped in data": (
        lambda out: flip_bit(out / TAR, 5000),
        f"the SHA-256 of {TAR} does not match manifest.json",
    ),
    "index missing": (lambda out: (out / INDEX).unlink(), f"{INDEX} cannot be read"),
    "index broken": (lambda out: os.truncate(out / INDEX, 100), f"{INDEX} cannot be read"),
    "index of another tar": (
        lambda out: edit_json(out / INDEX, lambda i: i.update(sha256="0")),
        f"{INDEX} and manifest.json differ in sha256",
    ),
    "clip missing in the index": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"].pop()),
        "clips, but manifest.json has clips=",
    ),
    "wrong offset": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"][0]["files"].update(json=[0, 5])),
        f"{INDEX} lists ",
    ),
    "missing member": (lambda out: _rewrite(out, slice(-1)), f"{TAR} lacks "),
    "unlisted member": (
        lambda out: _rewrite(out, more=(_member("../../x.jpg"),)),
        f"{TAR} contains ../../x.jpg, which {INDEX} does not list",
    ),
    "duplicate member": (lambda out: _rewrite(out, more=(_member(_first_name(out)),)), ".json twice"),
    "symbolic link in the tar": (
        lambda out: _rewrite(out, more=(_member("x.jpg", tarfile.SYMTYPE),)),
        f"{TAR} contains x.jpg, which is not a regular file",
    ),
    "member name with terminal controls": (
        lambda out: _rewrite(out, more=(_member("\x1b[2Jx.jpg"),)),
        f"{TAR} contains \\x1b[2Jx.jpg",
    ),
    "text instead of a tar": (
        lambda out: ((out / TAR).write_text("text" * 500), _restate(out)),
        f"{TAR} is not a readable tar",
    ),
    "empty tar": (lambda out: ((out / TAR).write_bytes(b""), _restate(out)), f"{TAR} is not a readable tar"),
    "header too large": (
        lambda out: _rewrite(out, more=(_member("x" * (2 << 20)),), form=tarfile.GNU_FORMAT),
        f"{TAR} is not a readable tar: a header of 2097153 bytes",
    ),
    "duplicate id": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"].append(i["members"][0])),
        "duplicate id ",
    ),
    "unlisted tar": (
        lambda out: shutil.copy(out / TAR, out / "train-000009.tar"),
        "train-000009.tar is not in manifest.json",
    ),
    "id that leaves the folder": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"][0].update(id="../x")),
        "'../x' is not a valid id",
    ),
    "id of another shard": (
        lambda out: edit_json(
            out / INDEX,
            lambda i: i["members"][0].update(
                id=json.loads((out / "train-000000.json").read_text())["members"][0]["id"]
            ),
        ),
        ", in train-000000.json and train-000001.json",
    ),
    "index is a list": (
        lambda out: (out / INDEX).write_text("[]"),
        f"{INDEX} cannot be read: not written by pipelines.build",
    ),
    "deeply nested index": (
        lambda out: (out / INDEX).write_text("[" * 100_000),
        f"{INDEX} cannot be read: RecursionError",
    ),
    "binary index": (
        lambda out: (out / INDEX).write_bytes(b"\xff\x00\xfe"),
        f"{INDEX} cannot be read: UnicodeDecodeError",
    ),
    "members are not a list": (
        lambda out: edit_json(out / INDEX, lambda i: i.update(members=7)),
        f"{INDEX} cannot be read: not written by",
    ),
    "id is a number": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"][0].update(id=7)),
        "7 is not a valid id",
    ),
    "offset is text": (
        lambda out: edit_json(out / INDEX, lambda i: i["members"][0]["files"].update(json=["0", 5])),
        "offset and size of ",
    ),
    "rejected row without reason": (
        lambda out: [edit_json(f, lambda i: i.update(rejected=[{"id": "x"}])) for f in [out / INDEX]],
        "KeyError 'reason'",
    ),
    "fingerprints of rejected media missing": (
        lambda out: edit_json(out / INDEX, lambda i: i.pop("media_of_rejected")),
        "KeyError 'media_of_rejected'",
    ),
    "fingerprint of media that were not rejected": (
        lambda out: edit_json(out / INDEX, lambda i: i.update(media_of_rejected={"x": "1"})),
        "media_of_rejected lists x",
    ),
    "manifest is a list": (
        lambda out: (out / "manifest.json").write_text("[]"),
        "is not a manifest of shards: it has no list of shards",
    ),
    "counts are text": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(rows="6")),
        "is not a manifest of shards: rows is '6'",
    ),
    "counts are negative": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(rejected=-1)),
        "rejected is -1",
    ),
    "shards are strings": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(shards=["x"])),
        "invalid shard name: 'x'",
    ),
    "shard without a hash": (
        lambda out: edit_json(out / "manifest.json", lambda m: m["shards"][0].pop("sha256")),
        "clips, size_bytes or sha256 of",
    ),
    "shard name that leaves the folder": (_hostile_name("../x"), "invalid shard name"),
    "absolute shard name": (_hostile_name("/etc/passwd"), "invalid shard name"),
    "duplicate shard": (
        lambda out: edit_json(out / "manifest.json", lambda m: m["shards"].append(m["shards"][0])),
        "duplicate id ",
    ),
    "fingerprint of other shards": (
        lambda out: edit_json(out / "manifest.json", lambda m: m.update(fingerprint="0")),
        "its fingerprint does not match",
    ),
    "statistics missing": (lambda out: (out / "stats.json").unlink(), "stats.json cannot be read"),
    "statistics changed": (
        lambda out: edit_json(out / "stats.json", lambda s: s.update(rejected={})),
        "stats.json does not match",
    ),
    "rejected.jsonl missing": (lambda out: (out / "rejected.jsonl").unlink(), "rejected.jsonl cannot be read"),
    "rejected.jsonl truncated": (
        lambda out: os.truncate(out / "rejected.jsonl", 0),
        "rejected.jsonl has 0 lines, but manifest.json has rejected=1",
    ),
    "rejected.jsonl changed": (
        lambda out: (out / "rejected.jsonl").write_text('{"id": "x", "reason": "missing", "detail": ""}\n'),
        "rejected.jsonl does not match the indices",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported(out, capsys, damage):
    apply, expected = DAMAGES[damage]
    apply(out)
    code, lines = verify(out, capsys)
    assert code == 1
    assert any(expected in line for line in lines), lines


def test_tar_truncated_at_any_byte_is_reported(out, capsys):
    size_bytes = (out / TAR).stat().st_size
    data = (out / TAR).read_bytes()
    for length in range(0, size_bytes, size_bytes // 15):
        (out / TAR).write_bytes(data[:length])
        assert verify(out, capsys)[0] == 1, f"truncated to {length} of {size_bytes} bytes"
