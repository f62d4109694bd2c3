"""Spoken words in pipelines.inspect: with their times in text, and under the waveform in the page."""

import io
import json
import re

import numpy as np
from tiny_inspect import inspect, write_tar
from tiny_media import write_wav

from pipelines.inspect.clip_preview import ClipPreview
from pipelines.inspect.page import write_page

LABEL = re.compile(
    r'<span title="([^"]*)" style="left: ([\d.]+)%; top: ([\d.]+)rem">([^<]*)<small>([^<]*)</small></span>'
)


def _page(words, samples: int = 80_000, **metadata) -> str:
    stored = [{"word": word, "start_s": start_s, "end_s": end_s} for word, start_s, end_s in words]
    rate_hz = 8000 if samples else 0
    preview = ClipPreview(
        "a", "x", {}, np.ones(samples, np.float32) / 2, rate_hz, metadata={"words": stored} | metadata
    )
    write_page(file := io.BytesIO(), "", (), [preview])
    return file.getvalue().decode()


def test_one_clip_shows_its_words_with_their_times_as_text(spoken, capsys):
    code, lines = inspect(capsys, spoken, key="clip1")
    assert code == 0
    assert "words         green 1.40 - 1.80 s, thing 1.90 - 2.00 s" in lines


def test_the_page_shows_words_at_their_times_under_the_waveform(spoken, tmp_path, capsys):
    code, _ = inspect(capsys, spoken, key="clip0", html=str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    assert code == 0
    labels = LABEL.findall(text)
    assert [label[3:] for label in labels] == [("red", "1.40"), ("thing", "1.90")]
    assert labels[0][:2] == ("red 1.40 - 1.80 s", "70.00")
    assert '<rect x="420.0" width="120.0" y="0" height="100"/>' in text
    assert "shaded: words" in text


def test_labels_that_would_overlap_are_in_lanes_and_stay_inside_the_page():
    text = _page([("first", 0.0, 0.1), ("second", 0.1, 0.2), ("third", 3.0, 3.5), ("last", 9.9, 10.0)])
    labels = LABEL.findall(text)
    assert [top for _, _, top, *_ in labels] == ["0.0", "2.1", "0.0", "0.0"]
    assert [float(left) for _, left, *_ in labels[:3]] == [0.0, 1.0, 30.0]
    assert float(labels[3][1]) < 96


def test_times_are_from_the_start_of_the_clip_and_words_are_shown_without_audio():
    labels = LABEL.findall(_page([("red", 31.0, 32.0), ("later", 50, 51)], 0, start_s=30.0, end_s=34.0))
    assert [(label[0], label[1]) for label in labels] == [("red 1.00 - 2.00 s", "50.00")]
    assert "<svg" not in _page([("red", 31.0, 32.0)], 0)


def test_text_of_words_is_escaped_and_shortened():
    text = _page([("<b>" + "x" * 50, 0.0, 1.0)])
    assert "<b>x" not in text
    assert f"&lt;b&gt;{'x' * 20}…<small>" in text


def test_clips_without_words_or_with_words_of_another_form_have_no_labels(tmp_path, capsys):
    wav = write_wav(tmp_path / "x.wav", 0.5 * np.ones(4000, np.float32), 8000).read_bytes()
    for number, words in enumerate(([], "red", [{"word": 5}], [{"word": "a", "start_s": "x", "end_s": 1}])):
        members = {"x.json": json.dumps({"words": words}).encode(), "x.wav": wav}
        shard = write_tar(tmp_path / f"{number}.tar", members)
        code, lines = inspect(capsys, shard, html=str(tmp_path / "page.html"), key="x")
        text = (tmp_path / "page.html").read_text()
        assert code == 0
        assert not any(line.startswith("words") for line in lines)
        assert not LABEL.search(text)
        assert "<rect" not in text
