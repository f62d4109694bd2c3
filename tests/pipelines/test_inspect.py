"""pipelines.inspect: built and foreign shards, one-line reports of corrupt data, hostile content on a page."""

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tiny_media import write_video, write_wav

from configs.errors import UsageError
from configs.package_names import PACKAGES
from configs.schema import InspectConfig
from pipelines.inspect.__main__ import main
from pipelines.inspect.clip_preview import ClipPreview
from pipelines.inspect.page import write_page

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
    code = main(InspectConfig(**settings), str(address))
    return code, capsys.readouterr().out.splitlines()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def ids(out: Path, shard: str = "train-*") -> list[str]:
    return [
        clip["id"] for index in sorted(out.glob(f"{shard}.json")) for clip in json.loads(index.read_text())["members"]
    ]


def test_a_built_shard_prints_a_table_of_its_clips(out, capsys):
    code, lines = inspect(capsys, out / TAR)
    assert code == 0
    assert lines[0].startswith(f"{out}/{TAR}: ") and lines[0].endswith("2 clips; members: 6 jpg, 2 json, 2 flac")
    assert [line.split()[0] for line in lines[1:]] == ["key", *ids(out, "train-000001")]
    assert re.search(r"0\.00 - 0\.80 s +0\.80 s +3 of 64x48 px +0\.80 s 16000 Hz -\d\.\d dBFS", lines[2])


def test_a_data_set_prints_its_totals_and_samples_all_its_shards(out, capsys):
    code, lines = inspect(capsys, out, clips=4)
    assert code == 0
    assert lines[0] == f"{out}: 8 rows = 8 clips + 0 rejected, in 4 shards"
    shown = [line.split()[0] for line in lines[2:]]
    assert len(shown) == 4 and all(len(set(ids(out, f"train-{number:06d}")) & set(shown)) == 1 for number in range(4))
    assert [line.split()[0] for line in inspect(capsys, out, clips=100)[1][2:]] == ids(out)


def test_an_unfinished_data_set_shows_its_first_shard_and_reports_the_missing_manifest(out, capsys):
    (out / "manifest.json").unlink()
    code, lines = inspect(capsys, out)
    assert code == 1
    assert "manifest.json is missing" in lines[1] and "showing the first of 4 shards" in lines[1]
    assert [line.split()[0] for line in lines[3:]] == ids(out, "train-000000")


def test_key_prints_all_fields_members_and_json_of_its_clip(out, capsys):
    key = ids(out)[5]
    code, lines = inspect(capsys, out, key=key)
    assert code == 0
    text = "\n".join(lines)
    assert re.search(rf"key +{key}\n", text) and re.search(r"shard +train-000002", text)
    assert re.search(r"\n0\.jpg +\d+ bytes at \d+ +64x48 px\n", text) and re.search(r"\nflac +\d+ bytes", text)
    assert json.loads(text[text.index("\n{") :])["id"] == key


@pytest.mark.parametrize("shard", ["", TAR])
def test_an_unknown_key_is_a_usage_error_that_lists_similar_keys(out, shard):
    similar = ids(out, "train-000001")[0]
    with pytest.raises(UsageError, match=f"key={similar}x is not in .*; similar keys: {similar}, "):
        main(InspectConfig(key=f"{similar}x"), f"{out}/{shard}".rstrip("/"))


def test_a_stock_webdataset_shard_is_read_without_an_index_and_without_unpickling(stock, capsys):
    code, lines = inspect(capsys, stock, clips=5)
    assert code == 0
    assert "20 clips; members: 20 cls, 20 json, 20 npy, 20 png, 20 pyd, 20 wav" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["a/000002", "a/000006", "a/000010", "a/000014", "a/000018"]
    assert re.search(r"1 of 60x40 px +0\.50 s 8000 Hz -6\.0 dBFS +caption 2$", lines[2])
    text = "\n".join(inspect(capsys, stock, key="a/000012")[1])
    assert re.search(r"npy +\d+ bytes at \d+ +float16 \(3, 13\)", text) and re.search(r"pyd +\d+ bytes at \d+\n", text)


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
    parser = _Tags()
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


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.sources = set(), set(), []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_embeds_frames_with_times_audio_waveform_and_json(out, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, lines = inspect(capsys, out, html=str(page), clips=2)
    assert code == 0 and lines[-1].startswith(f"wrote {page} (")
    text, parser = page.read_text(), _Tags()
    parser.feed(text)
    assert (
        text.count("<section>") == 2
        and text.count("<img ") == 6
        and text.count("<audio ") == 2
        and text.count("<path ") == 2
    )
    assert (
        all(source.startswith(("data:image/jpeg;base64,", "data:audio/flac;base64,")) for source in parser.sources)
        and len(parser.sources) == 8
    )
    assert "<figcaption>0.10 s</figcaption>" in text and text.count("<line ") == 6
    assert "prefers-color-scheme: dark" in text and "http" not in text
    assert "&#34;decoder&#34;: &#34;pyav&#34;" in text


def test_the_page_is_written_one_clip_at_a_time():
    sizes, file = [], io.BytesIO()

    def previews():
        for number in range(3):
            sizes.append(file.tell())
            yield ClipPreview(str(number), "train-000000", {}, np.zeros(0, np.float32), json_text="x" * 1000)

    write_page(file, "", (), previews())
    assert all(after - before > 1000 for before, after in pairwise([*sizes, file.tell()]))


def test_long_audio_and_large_images_are_reduced_in_the_page(tmp_path, capsys):
    image = io.BytesIO()
    Image.effect_noise((2000, 1500), 80).save(image, "JPEG")
    wav = write_wav(
        tmp_path / "x.wav", 0.1 * np.random.default_rng(0).standard_normal(300 * 8000).astype(np.float32), 8000
    ).read_bytes()
    shard = write_tar(tmp_path / "x.tar", {"x.jpg": image.getvalue(), "x.wav": wav})
    code, lines = inspect(capsys, shard, html=str(tmp_path / "x.html"))
    assert code == 0 and "1 of 2000x1500 px  300.00 s 8000 Hz" in lines[2]
    assert (tmp_path / "x.html").stat().st_size < len(wav) / 3


@pytest.mark.parametrize("name", ["page.css", "page.html.j2"])
def test_a_missing_template_or_style_sheet_is_reported_in_one_line(out, tmp_path, name):
    """As in a wheel that was built without its data files."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / "app" / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "app/pipelines/inspect" / name).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.inspect", str(out), f"html={tmp_path}/page.html"],
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not list(tmp_path.glob("*.html*"))
    error = (
        f"error: {tmp_path}/app/pipelines/inspect/{name} is missing: this installation is incomplete; run pip install "
    )
    assert done.stderr.splitlines()[-1].startswith(error) and "Traceback" not in done.stderr


@pytest.mark.parametrize("html", ["none/page.html", "page.htm", "folder.html"])
def test_an_unwritable_page_is_reported_before_any_clip_is_read(out, tmp_path, html):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=r"must be a file that ends with \.html, in an existing folder"):
        main(InspectConfig(html=str(tmp_path / html)), str(out))


@pytest.mark.parametrize(
    "address", ["{}/none", "{}/none.tar", "{}/none/x.tar", "{}/out/manifest.json", "memory://none", "{}"]
)
def test_an_address_without_shards_is_a_usage_error(out, address):
    with pytest.raises(UsageError, match="no such shard"):
        main(InspectConfig(), address.format(out.parent))


def test_a_shard_listed_in_the_manifest_but_missing_is_reported(out, capsys):
    (out / TAR).unlink()
    code, lines = inspect(capsys, out)
    assert code == 1 and lines[1] == f"{TAR} is missing" and len(lines) == 3 + 6


def test_an_invalid_index_is_reported_and_the_tar_headers_are_read_instead(out, capsys):
    (out / "train-000001.json").write_text("[]")
    code, lines = inspect(capsys, out / TAR)
    assert code == 1 and "train-000001.json cannot be read" in lines[1] and len(lines) == 5


def test_shards_on_fsspec_file_systems_are_inspected(out, stock, capsys):
    fs = fsspec.filesystem("memory")
    fs.put(f"{out}/", "/inspect", recursive=True)
    fs.put(str(stock), "/inspect_stock/stock.tar")
    assert [line.split()[0] for line in inspect(capsys, "memory://inspect")[1][2:]] == ids(out)
    assert inspect(capsys, f"memory://inspect/{TAR}")[0] == 0
    assert inspect(capsys, "memory://inspect_stock/stock.tar", key="a/000003")[0] == 0


def test_the_command_exits_with_0_1_or_2(out):
    def code(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pipelines.inspect", *arguments], cwd=ROOT, capture_output=True
        ).returncode

    assert code(str(out), "clips=1") == 0
    assert code(str(out), "key=nobody") == 2
    os.truncate(out / "train-000000.tar", 100)
    assert code(str(out)) == 1
