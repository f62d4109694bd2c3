"""Comparison of two evaluations, its command, and metrics files that are missing or broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from configs.cli import run
from configs.errors import UsageError
from configs.schema import CompareConfig
from eval.report.__main__ import main
from eval.report.compare import compare, format_comparison, render_comparison
from eval.results import Requirement, Results, read_metrics, write_metrics


def _write(folder, metrics, intervals=None, items=None, config="seed: 0\n"):
    folder.mkdir(exist_ok=True)
    results = Results(
        metrics,
        items or {},
        [Requirement("x", ">= 1", float("nan"), False)],
        about={"config": config, "commit": "abc"},
        intervals=intervals or {},
    )
    write_metrics(results, folder)
    return folder


@pytest.fixture
def two(tmp_path):
    a = _write(
        tmp_path / "a",
        {"vggss/median/ciou": 0.4, "vggss/median/auc": 0.3, "chance/vggss/median/ciou": 0.1, "is3/median/ciou": 0.2},
        {"vggss/median/ciou": (0.35, 0.45), "vggss/median/auc": (0.25, 0.35)},
        {"vggss/items": 24, "vggss/left_out_no_sound": 1},
        "checkpoint: runs/one\nseed: 0\nbatch_size: 32\n",
    )
    b = _write(
        tmp_path / "b",
        {
            "chance/vggss/median/ciou": 0.1,
            "vggss/median/ciou": 0.6,
            "vggss/median/auc": 0.32,
            "places_retrieval/audio_to_image/recall_at_1": 0.5,
        },
        {"vggss/median/ciou": (0.5, 0.7), "vggss/median/auc": (0.3, 0.4)},
        {"vggss/items": 25},
        "checkpoint: runs/two\nseed: 1\nbatch_size: 32\n",
    )
    return a, b


def test_comparison_shows_values_differences_and_intervals(two):
    text = format_comparison(compare(*two))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["vggss/median/ciou"] == [
        "vggss/median/ciou",
        "0.400",
        "[0.350,",
        "0.450]",
        "0.600",
        "[0.500,",
        "0.700]",
        "+0.200",
        "APART",
    ]
    assert lines["vggss/median/auc"][-2:] == ["+0.020", "overlap"]
    assert lines["chance/vggss/median/ciou"] == ["chance/vggss/median/ciou", "0.100", "0.100"]
    assert text.index("vggss/median/auc") < text.index("chance/vggss/median/ciou")  # the model's own first
    assert "intervals: 1 apart, 1 overlap, 1 metrics without" in text


def test_comparison_lists_missing_metrics_differing_settings_and_items(two):
    text = format_comparison(compare(*two))
    assert (
        "only in A:\n  is3/median/ciou 0.200" in text
        and "only in B:\n  places_retrieval/audio_to_image/recall_at_1 0.500" in text
    )
    assert "seed: 0 -> 1" in text and "batch_size" not in text and "checkpoint:" not in text
    assert "A: " in text and "runs/one" in text and "runs/two" in text
    assert (
        "!! DIFFERENT ITEMS" in text
        and "!! vggss/items: 24 -> 25" in text
        and "!! vggss/left_out_no_sound: 1 -> 0" in text
    )


def test_run_compared_with_itself_has_no_differences(two):
    text = format_comparison(compare(two[0], two[0] / "metrics.json"))
    assert (
        "differ" not in text and "!!" not in text and "only in" not in text and "+0" not in text and "APART" not in text
    )


def test_counts_of_one_side_only_are_not_different_items(tmp_path):
    a = _write(
        tmp_path / "a", {"vggss/median/ciou": 0.4}, items={"vggss/items": 24, "is3/items": 3}, config="seed: 0\n"
    )
    b = _write(
        tmp_path / "b",
        {"vggss/median/ciou": 0.4},
        items={"vggss/items": 24, "vggss/groups": 24, "vggss/left_out_x": 0},
        config="seed: 0\nnew: ''\n",
    )
    text = format_comparison(compare(a, b))
    assert "!!" not in text and "settings" not in text


def test_page_shows_the_same_as_the_text(two, tmp_path, capsys):
    page = tmp_path / "compare.html"
    assert run(CompareConfig, "doc", main, ["compare", *map(str, two), f"html={page}"], ("compare", "A", "B")) == 0
    text = page.read_text()
    for part in (
        "0.400",
        "[0.350, 0.450]",
        "+0.200",
        "<td class=good>apart",
        "seed: 0 -&gt; 1",
        "is3/median/ciou 0.200",
    ):
        assert part in text
    assert run(CompareConfig, "doc", main, ["compare", *map(str, two), "html=x.txt"], ("compare", "A", "B")) == 2
    assert "html=x.txt: give the name of the page" in capsys.readouterr().err


def test_comparison_without_a_common_metric_says_so(tmp_path):
    comparison = compare(_write(tmp_path / "a", {"a/b/c": 1.0}), _write(tmp_path / "b", {"d/e/f": 1.0}))
    assert "no metric in common" in format_comparison(comparison)
    assert "no metric in common" in render_comparison(comparison)


def test_metrics_file_without_intervals_is_compared(two):
    path = two[0] / "metrics.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "intervals"})
    )
    assert "+0.200" in format_comparison(compare(*two))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; give an output folder"),
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "key `metrics` is missing"),
        ('"metrics"', "key `metrics` is missing"),
        ("{}", "key `metrics` is missing"),
        ('{"metrics": 3}', "`metrics` is not an object"),
        ('{"metrics": {"a/b/c": NaN}}', "metrics, a/b/c: 'nan'"),
        ('{"metrics": {"a/b/c": "high"}}', "metrics, a/b/c: 'high'"),
        ('{"metrics": {}, "intervals": {"a/b/c": [1]}}', r"intervals, a/b/c: '\[1\]'"),
        ('{"metrics": {}, "intervals": {"a/b/c": 1}}', "intervals, a/b/c: '1'"),
        ('{"metrics": {}, "items": {"a/items": true}}', "items, a/items: 'True'"),
        ('{"metrics": {}, "about": {"config": 3}}', "about, config: '3'"),
    ],
)
def test_missing_or_broken_metrics_file_is_one_error_line(two, content, message, capsys):
    path = two[1] / "metrics.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_metrics(two[1])
    assert run(CompareConfig, "doc", main, ["compare", str(two[0]), str(two[1])], ("compare", "A", "B")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folder_named_like_a_setting_is_compared_and_a_folder_named_metrics_json_is_refused(
    two, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    two[0].rename("lr=1e-4")
    assert run(CompareConfig, "doc", main, ["compare", "lr=1e-4", str(two[1])], ("compare", "A", "B")) == 0
    assert "A: lr=1e-4" in capsys.readouterr().out
    (two[1] / "metrics.json").unlink()
    (two[1] / "metrics.json").mkdir()
    for path in (two[1], Path("x" * 300)):
        with pytest.raises(UsageError, match=r"metrics\.json: Is a directory|File name too long"):
            read_metrics(path)


def test_unreadable_settings_and_unknown_commit_are_tolerated(two):
    path = two[0] / "metrics.json"
    content = json.loads(path.read_text())
    content["about"] = {"config": "a: [1, {"}
    path.write_text(json.dumps(content))
    text = format_comparison(compare(*two))
    assert "+0.200" in text and text.splitlines()[:2] == [f"A: {two[0]}", f"B: {two[1]}, runs/two, commit abc"]


def test_nan_metric_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        _write(tmp_path / "a", {"a/b/c": float("nan")})
    assert not list((tmp_path / "a").iterdir())


def test_command_compares_and_refuses_wrong_arguments(two):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "eval.report", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    done = command("compare", *two)
    assert (done.returncode, done.stderr) == (0, "") and "vggss/median/ciou" in done.stdout
    for arguments, message in (
        (("compare", two[0]), "COMPARE A B, on the command line"),
        (("contrast", *two), "unknown action 'contrast', allowed is `compare A B`"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert "compare A B" in command("--help").stdout
