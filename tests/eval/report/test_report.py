"""The reports: complete, self-contained, and with all text from data escaped."""

import html
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from paths import ROOT

from configs.package_names import PACKAGES
from eval.benchmarks.registry import KINDS, benchmark_info, build_benchmarks
from eval.report.content import headline, metric_name, sections, with_rank_labels
from eval.report.published_results import SOURCES, published_results
from eval.report.write import write_report
from eval.results import PREFIXES, Example, Requirement, Results


def _example(task, prompt="red star", heads=2):
    rng = np.random.default_rng(0)
    return Example(
        task=task, prompt=prompt, image=rng.integers(0, 255, (32, 32, 3)).astype(np.uint8),
        heatmap=rng.random((32, 32), np.float32),
        heads=rng.random((heads, 32, 32), np.float32), target=rng.random((32, 32)) > 0.5, average_precision=0.777,
        waveform=np.zeros(1600, np.float32), sample_rate_hz=16000,
    )  # fmt: skip


@pytest.fixture
def results():
    metrics = {
        "ade20k_speech/basic/map": 0.6123,
        "chance/ade20k_speech/basic/map": 0.0751,
        "shuffled_prompts/ade20k_speech/basic/map": 0.1234,
    }
    metrics |= {"places_retrieval/audio_to_image/recall_at_10": 0.4321, "disentanglement/heads/head_0_win_rate": 0.25}
    return Results(
        metrics, {"ade20k_speech/items": 192}, [Requirement("ade20k_speech/basic/map", ">= 0.9", 0.6123, False)],
        {"ade20k_speech": {"<b>bold</b> star": {"ap": 0.5, "iou": 0.25, "items": 8}}},
        [_example("ade20k_speech", '"><script>alert(1)</script>'), _example("ade20k_sound")],
        {"date": "2026-01-02", "config": "a: 1", "commit": "abc"},
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


def test_html_report_is_self_contained_and_shows_every_metric(results, tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"\0\0")
    text = write_report(
        results, tmp_path, [{"step": 1, "logit_scale": 1.0}, {"step": 2, "logit_scale": 1.5}], video
    ).read_text()
    tags = _parsed(text)
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert tags.seen.count("img") == 8 and tags.seen.count("audio") == 2 and tags.seen.count("video") == 1
    for number in ("0.612", "0.075", "0.123", "0.432", "0.250", "FAIL", "0.500", "commit: abc"):
        assert number in text
    assert not [tag for tag in tags.seen if tag == "script"]
    assert "<b>bold</b> star" not in text and "&lt;b&gt;bold" in text
    assert not list(tmp_path.glob(".*tmp*"))


def test_report_without_history_video_images_or_baselines_is_complete(tmp_path):
    text = write_report(Results({"ade20k_sound/basic/map": 0.5}, {}, []), tmp_path, [], None).read_text()
    _parsed(text)
    assert "no history.jsonl" in text and "<video" not in text and "requirements" not in text


def test_single_head_has_no_separate_heatmaps(tmp_path):
    text = write_report(Results({}, {}, [], {}, [_example("ade20k_sound", heads=1)]), tmp_path, [], None).read_text()
    assert "of the best example" not in text and "head 0" not in text


def test_headline_states_the_main_metrics(results):
    text = headline(results)
    assert text == "Speech-prompted segmentation reaches mAP 0.61 (shuffled prompts 0.12, chance 0.08)."
    assert headline(Results({}, {}, [])) == "Results of the model and of its baselines."
    metrics = {"vggss/median/ciou": 0.416, "chance/vggss/median/ciou": 0.05, "flickr_soundnet/median/ciou": 0.8}
    assert headline(Results(metrics, {}, [])).startswith(
        "On VGG-SS, 42% of the sources are localized at cIoU 0.5 (chance 0.05); on Flickr-SoundNet, 80%"
    )


def test_headline_of_other_benchmarks_names_them():
    metrics = {"mine/audio_to_image/recall_at_1": 0.1, "mine/audio_to_image/recall_at_10": 0.425}
    assert headline(Results(metrics, {}, [])) == "On mine, recall@10, audio to image is 0.42."


@pytest.mark.parametrize(("low", "is_flat"), [(0.11, False), (0.10, True)])
def test_a_model_that_is_no_better_than_its_baselines_is_reported_as_such(tmp_path, low, is_flat):
    key = "ade20k_sound/basic/map"
    # Global pooling uses the trained features, so that it may well be better.
    metrics = {key: 0.15, f"shuffled_prompts/{key}": 0.10, f"chance/{key}": 0.05, f"global_pooling/{key}": 0.9}
    results = Results(metrics, {}, [], intervals={key: (low, 0.2)})
    assert ("no better than its baselines" in headline(results)) == is_flat
    write_report(results, tmp_path, [], None)
    for name in ("report.html", "report.md"):
        assert ("No metric is better than its baselines" in (tmp_path / name).read_text()) == is_flat


def test_variants_that_need_an_explanation_have_one_where_they_stand(tmp_path):
    write_report(Results({"vggss/median/ciou": 0.0, "vggss/adaptive/ciou": 0.4}, {}, []), tmp_path, [], None)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "positive above the median of the map" in text and "as many positive pixels" in text


# ------------------------------------------------------------------------------ intervals, baselines, published results


def test_both_reports_show_intervals_baselines_and_items(tmp_path):
    metrics = {"vggss/median/ciou": 0.4004, "center_prior/vggss/median/ciou": 0.2002, "ogl/vggss/median/ciou": 0.4567}
    items = {
        "vggss/items": 1234,
        "vggss/without_a_region": 2,
        "vggss/left_out_no_sound": 3,
        "vggss/left_out_duplicate": 0,
    }
    write_report(Results(metrics, items, [], intervals={"vggss/median/ciou": (0.3503, 0.4506)}), tmp_path, [], None)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for number in (
        "0.400",
        "0.200",
        "0.457",
        "0.350",
        "0.451",
        "1,234 items, 2 without a region. Left out: 3 no sound.",
    ):
        assert number in page and number in text
    assert "| cIoU, median | **0.400** | 0.350 to 0.451 | 0.200 | 0.457 |" in text
    assert PREFIXES["ogl"] in text and "untrained" not in text


@pytest.mark.parametrize(("smallest", "sentence"), [(8, "8 items per class"), (3, "3 to 8 items per class")])
def test_section_says_how_many_items_a_class_has(smallest, sentence):
    items = {"ade20k_speech/items": 192, "ade20k_speech/min_class_items": smallest, "ade20k_speech/max_class_items": 8}
    (section,) = sections(Results({}, items, []))
    assert section.items == f"192 items, {sentence}. Nothing left out."


def test_published_results_appear_only_for_measured_metrics_with_their_source(tmp_path):
    write_report(Results({"vggss/median/ciou": 0.4}, {"vggss/items": 24}, []), tmp_path, [], None)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert (
        "SouPLe, published (T)" in page
        and "SSLAlign, published (C)" in page
        and "published on 5,158 items, ours on 24" in page
    )
    assert "| cIoU, median | 0.400 | SouPLe | 0.548 | T |" in text and "published on 5,158 items, ours on 24" in text
    assert not any(word in page + text for word in ("CAV-MAE", "VAB", "0.852"))
    assert SOURCES["T"] in html.unescape(page) and SOURCES["T"] in text


def test_set_of_the_published_size_has_no_note_about_its_size():
    (section,) = sections(Results({"flickr_soundnet/median/ciou": 0.8}, {"flickr_soundnet/items": 250}, []))
    assert all("ours on" not in section.comparability(figure) for figure in section.rows[0].published)


def test_published_results_are_valid_and_verified():
    figures = published_results()
    assert {figure.source for figure in figures} <= set(SOURCES) and len(figures) == 22
    assert len({(figure.key, figure.system) for figure in figures}) == len(figures)
    for figure in figures:
        task, _, _ = figure.key.split("/")
        assert task in KINDS and 0 < figure.value < 1 and metric_name(figure.key)
    unverified = {("ade20k_speech", "miou"): 0.368, ("ade20k_sound", "map"): 0.327}
    for (task, metric), value in unverified.items():
        assert not [
            f
            for f in figures
            if f.system == "DenseAV"
            and f.key.startswith(task)
            and f.key.endswith(metric)
            and abs(f.value - value) < 0.01
        ]
    assert not [f for f in figures if f.system == "DenseAV" and "retrieval" in f.key]


def test_every_published_benchmark_states_its_question_name_and_terms():
    from configs.errors import UsageError
    from configs.schema import EvalConfig

    with pytest.raises(UsageError) as error:
        build_benchmarks(EvalConfig(benchmarks=["?"]))
    assert set(str(error.value).partition("allowed are ")[2].split(", ")) == set(KINDS)
    assert all(all(benchmark_info(name)[:3]) for name in set(KINDS) - {"retrieval"})


def test_benchmark_with_counts_and_without_metrics_has_a_section():
    found = sections(Results({"vggss/median/auc": 0.5}, {"disentanglement/items": 0}, []))
    assert (
        [section.task for section in found] == ["vggss", "disentanglement"]
        and found[0].items == ""
        and found[1].items == "0 items. Nothing left out."
    )


@pytest.mark.parametrize(
    ("count", "labels"),
    [(1, ["best"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"]), (4, ["best", "", "", "worst"])],
)
def test_examples_are_labelled_by_rank(count, labels):
    assert [label for label, _ in with_rank_labels([_example("vggss")] * count)] == labels


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ade20k_speech/basic/miou_val_threshold", "mIoU val threshold, basic"),
        ("places_retrieval/audio_to_image/recall_at_10", "recall@10, audio to image"),
        ("disentanglement/heads/head_1_win_rate", "head 1 win rate"),
        ("avsbench_s4/best_threshold_test/f_score", "F-score, best threshold test"),
        ("extended_vggss/median/max_f1", "max-F1, median"),
    ],
)
def test_metric_keys_have_readable_names(key, name):
    assert metric_name(key) == name


# ---------------------------------------------------------------------------------------------- Markdown


def test_markdown_has_best_median_and_worst_as_files_and_escapes_text(results, tmp_path):
    from PIL import Image

    examples = [
        replace(_example("ade20k_speech", prompt), average_precision=ap)
        for prompt, ap in (("![x](y) | `z`", 0.9), ("two", 0.5), ("<i>three", 0.1))
    ]
    write_report(replace(results, examples=[*examples, _example("ade20k_sound")]), tmp_path, [], None)
    text = (tmp_path / "report.md").read_text()
    for name in ("ade20k_speech", "ade20k_sound"):
        assert f"](pictures/{name}.jpg)" in text
    with Image.open(tmp_path / "pictures/ade20k_speech.jpg") as sheet:
        assert sheet.size == (5 * 160, 3 * (160 + 2 * 22))
    assert r"best: \!\[x\](y) \| \`z\`, AP 0.90; median: two, AP 0.50; worst: \<i\>three, AP 0.10" in text
    assert "<b>bold" not in text and r"\<b\>bold\</b\> star | 0.500 | 0.250 | 8 |" in text
    assert (
        "**FAIL** `ade20k_speech/basic/map` = 0.612, required `>= 0.9`" in text
        and "    commit: abc" in text
        and "    a: 1" in text
    )
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| ") and "0.612" in line}
    assert columns == {5}


# ---------------------------------------------------------------------------------------------- installation


@pytest.mark.parametrize("file", ["report.css", "report.html.j2", "report.md.j2", "published_results.yaml"])
def test_incomplete_installation_is_one_error_line_before_the_evaluation(tmp_path, file):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "eval/report" / file).unlink()
    program = (
        "import sys\nfrom pathlib import Path\nfrom configs.cli import run\nfrom configs.schema import NoSettings\n"
    )
    program += "from eval.report.write import report_folder\n"
    program += "sys.exit(run(NoSettings, '', lambda _: report_folder(Path('out')).__enter__()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{file}: No such file or directory; the installation is incomplete" in done.stderr
    assert not (tmp_path / "out").exists()
