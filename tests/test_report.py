"""The report: everything measured is in it, it needs nothing beside itself, and text from data stays text."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.figures import curve, enlarged, outlined, overlay
from eval.report import headline, write_report
from eval.results import Example, Requirement, Results


def _example(task, prompt="red star", heads=2):
    rng = np.random.default_rng(0)
    return Example(
        task=task, prompt=prompt, image=rng.integers(0, 255, (32, 32, 3)).astype(np.uint8), heatmap=rng.random((32, 32), np.float32),
        heads=rng.random((heads, 32, 32), np.float32), target=rng.random((32, 32)) > 0.5, average_precision=0.777,
        waveform=np.zeros(160, np.float32), sample_rate_hz=16000,
    )  # fmt: skip


@pytest.fixture
def results():
    metrics = {"ade20k_speech/basic/map": 0.6123, "chance/ade20k_speech/basic/map": 0.0751, "shuffled_prompts/ade20k_speech/basic/map": 0.1234}
    metrics |= {"places_retrieval/audio_to_image/recall_at_10": 0.4321, "disentanglement/heads/share_of_head_0": 0.25}
    return Results(
        metrics, {"ade20k_speech/items": 192}, [Requirement("ade20k_speech/basic/map", ">= 0.9", 0.6123, False)],
        {"ade20k_speech": {"<b>bold</b> star": {"ap": 0.5, "iou": 0.25, "items": 8}}},
        [_example("ade20k_speech", '"><script>alert(1)</script>'), _example("ade20k_sound")], {"date": "2026-01-02", "config": "a: 1", "commit": "abc"},
    )  # fmt: skip


class _Tags(HTMLParser):
    VOID = ("meta", "img", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parsed(text):
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    return tags


def test_the_report_is_whole_alone_and_shows_every_number(results, tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"\0\0")
    text = write_report(results, tmp_path, [{"step": 1, "scale": 1.0}, {"step": 2, "scale": 1.5}], video).read_text()
    tags = _parsed(text)
    assert all(address.startswith("data:") for address in tags.addresses)
    assert tags.seen.count("img") == 8 and tags.seen.count("audio") == 2 and tags.seen.count("video") == 1
    for number in ("0.612", "0.075", "0.123", "0.432", "0.250", "FAIL", "0.500", "commit: abc"):
        assert number in text
    assert not [tag for tag in tags.seen if tag == "script"]
    assert "<b>bold</b> star" not in text and "&lt;b&gt;bold" in text
    assert not list(tmp_path.glob(".*tmp*"))


def test_without_history_video_pictures_or_floors_the_report_still_stands(tmp_path):
    text = write_report(Results({"ade20k_sound/basic/map": 0.5}, {}, []), tmp_path, [], None).read_text()
    _parsed(text)
    assert "No history.jsonl" in text and "<video" not in text and "requirements" not in text


def test_one_head_has_no_maps_of_its_own(tmp_path):
    text = write_report(Results({}, {}, [], {}, [_example("ade20k_sound", heads=1)]), tmp_path, [], None).read_text()
    assert "Each head alone" not in text


def test_the_headline_is_made_of_the_numbers(results):
    said = headline(results.metrics)
    assert "0.61" in said and "prompts shuffled 0.12" in said and "chance 0.08" in said and "untrained" not in said
    assert headline({}) == "What was measured, and what it was measured against."


def test_a_cold_cell_keeps_the_dimmed_picture_and_a_hot_one_takes_the_maps_colour():
    image = np.full((2, 2, 3), 200, np.uint8)
    drawn = overlay(image, np.array([[0.0, 1.0], [0.0, 0.5]]))
    assert drawn[0, 0].tolist() == [150, 150, 150]
    assert drawn[0, 1, 0] > drawn[0, 1, 2] + 50
    assert image.min() == 200


def test_the_outline_follows_the_border_and_only_the_border():
    target = np.zeros((7, 7), bool)
    target[2:5, 2:5] = True
    drawn = outlined(np.zeros((7, 7, 3), np.uint8), target)[..., 0] > 0
    assert not drawn[3, 3] and not drawn[0, 0] and drawn[2, 2] and drawn[1, 2] and drawn[4, 3]


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_stay():
    assert enlarged(np.zeros((20, 30, 3), np.uint8), 100).shape == (80, 120, 3)
    assert enlarged(np.ones((20, 30), bool), 60).shape == (40, 60)
    assert enlarged(np.zeros((20, 300), np.float32), 100).shape == (20, 300)


def test_a_curve_leaves_a_gap_where_there_is_no_number():
    drawn = curve("a <loss>", [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, float("nan"), 4.0, 3.0])
    assert drawn.count("<polyline") == 2 and "a &lt;loss&gt;" in drawn and re.search(r">4<", drawn)
    assert "no finite value" in curve("x", [1.0], [float("inf")])
