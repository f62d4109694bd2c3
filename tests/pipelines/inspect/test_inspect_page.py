"""The HTML page of pipelines.inspect: complete, self-contained, of bounded size, and written clip by clip."""

import io
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tiny_inspect import Tags, inspect, write_tar
from tiny_media import write_wav

from configs.errors import UsageError
from configs.package_names import PACKAGES
from configs.schema import InspectConfig
from pipelines.inspect.__main__ import main
from pipelines.inspect.clip_preview import ClipPreview
from pipelines.inspect.page import write_page


def test_the_page_embeds_frames_with_times_audio_waveform_and_json(out, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, lines = inspect(capsys, out, html=str(page), clips=2)
    assert code == 0 and lines[-1].startswith(f"wrote {page} (")
    text, parser = page.read_text(), Tags()
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
