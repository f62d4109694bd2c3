"""pipelines.inspect reports corrupt and hostile shards in one line each, and unpickles nothing."""

import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from tiny_inspect import TAR, Tags, inspect, write_tar


def test_an_object_array_is_not_unpickled(tmp_path, capsys):
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    code, lines = inspect(capsys, write_tar(tmp_path / "x.tar", {"a.npy": buffer.getvalue()}))
    assert code == 1 and "a: npy cannot be read: Object arrays cannot be loaded when allow_pickle=False" in lines[-1]


def test_a_shard_truncated_anywhere_is_reported_with_exit_code_1(stock, capsys):
    size_bytes = stock.stat().st_size
    for length in range(size_bytes - 10240, 0, -size_bytes // 12):
        os.truncate(stock, length)
        code, lines = inspect(capsys, stock)
        assert code == 1 and any("truncated" in line for line in lines), length


def test_a_truncated_shard_with_an_index_reports_expected_and_actual_size(out, capsys):
    os.truncate(out / TAR, 6000)
    code, lines = inspect(capsys, out / TAR)
    assert code == 1
    assert f"{TAR} has 6000 bytes, but train-000001.json expects " in lines[1]
    assert any(re.search(r"flac cannot be read: truncated to 0 of \d+ bytes", line) for line in lines)


@pytest.mark.parametrize("content", [b"", b"text" * 1000, b"\x1f\x8b" + bytes(2000)], ids=["empty", "text", "gzip"])
def test_a_file_that_is_not_a_tar_is_reported_in_one_line(tmp_path, capsys, content):
    (tmp_path / "x.tar").write_bytes(content)
    code, lines = inspect(capsys, tmp_path / "x.tar")
    assert (
        code == 1
        and lines[1].startswith("x.tar is not a tar")
        and lines[2] == "it contains no clips"
        and len(lines) == 3
    )


def test_a_tar_without_members_contains_no_clips(tmp_path, capsys):
    code, lines = inspect(capsys, write_tar(tmp_path / "x.tar", {}))
    assert code == 1 and lines[1:] == ["it contains no clips"]


HOSTILE_JSON = {
    "text": "</pre><script>alert(1)</script>\x1b[2J",
    "labels": ["<img src=x onerror=alert(1)>"],
    "source": 7,
    "start_s": 10**400,
    "end_s": "x",
}


def test_hostile_member_names_and_texts_are_escaped_and_create_no_files(tmp_path, capsys):
    image = io.BytesIO()
    Image.new("RGB", (9, 7)).save(image, "JPEG")
    names = [
        "../../evil.jpg",
        "/etc/evil.jpg",
        '"><script>alert(1)<.jpg',
        "\x1b[2Jevil.jpg",
        "no_extension",
        "a\nb.jpg",
    ]
    members = {
        **{name: image.getvalue() for name in names},
        "x.json": json.dumps(HOSTILE_JSON).encode(),
        "x.jpg": image.getvalue(),
    }
    shard = write_tar(tmp_path / "x.tar", members)
    before = sorted(tmp_path.parent.rglob("*"))
    code, lines = inspect(capsys, shard, html=str(tmp_path / "page.html"))
    assert code == 1 and "x.tar: skipped 1 members that are not files named KEY.EXTENSION" in lines[1]
    assert "\x1b" not in "".join(lines)
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, tmp_path / "page.html"])
    parser = Tags()
    parser.feed((tmp_path / "page.html").read_text())
    assert not parser.tags & {"script", "a", "link", "iframe", "object"} and not any(
        name.startswith("on") for name in parser.attributes
    )
    assert parser.tags >= {"section", "img", "pre"}


BROKEN = {
    "text as jpg": ({"x.jpg": b"text"}, "jpg cannot be read: cannot identify image file"),
    "truncated png": ({"x.png": b"\x89PNG\r\n\x1a\n" + bytes(30)}, "png cannot be read"),
    "png of 4 billion pixels": (
        {"x.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0\x4f\x5e\x0a\x8f"},
        "png cannot be read",
    ),
    "text as flac": ({"x.flac": b"text"}, "flac cannot be read"),
    "truncated json": ({"x.json": b'{"a": '}, "json cannot be read: Expecting value"),
    "unclosed nested json": ({"x.json": b"[" * 100_000}, "json cannot be read: "),
    "array with a huge shape": (
        {
            "x.npy": b"\x93NUMPY\1\0\x46\0"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,)}".ljust(70)
        },
        "npy",
    ),
    "oversized member": (
        {"x.jpg": bytes((32 << 20) + 1)},
        "jpg cannot be read: 33554433 bytes exceed the limit of 33554432",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_undecodable_member_is_reported_in_one_line(tmp_path, capsys, kind):
    members, message = BROKEN[kind]
    code, lines = inspect(capsys, write_tar(tmp_path / "x.tar", members), html=str(tmp_path / "x.html"))
    assert code == 1
    assert len([line for line in lines if line.startswith("  x: ") and message in line]) == 1, lines


@pytest.mark.parametrize("depth", [300, 900, 980, 1100, 3000])
def test_deeply_nested_json_is_shown_or_reported_without_a_crash(tmp_path, capsys, depth):
    nested = b'{"labels": ' + b"[" * depth + b"]" * depth + b"}"
    code, lines = inspect(capsys, write_tar(tmp_path / "x.tar", {"x.json": nested}), html=str(tmp_path / "x.html"))
    assert code == any("json cannot be read: " in line for line in lines)


def test_a_shard_listed_in_the_manifest_but_missing_is_reported(out, capsys):
    (out / TAR).unlink()
    code, lines = inspect(capsys, out)
    assert code == 1 and lines[1] == f"{TAR} is missing" and len(lines) == 3 + 6


def test_an_invalid_index_is_reported_and_the_tar_headers_are_read_instead(out, capsys):
    (out / "train-000001.json").write_text("[]")
    code, lines = inspect(capsys, out / TAR)
    assert code == 1 and "train-000001.json cannot be read" in lines[1] and len(lines) == 5
