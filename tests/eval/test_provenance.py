"""A second `eval.run` prints the stored results without torch; a change of anything they depend on evaluates again."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_evaluation import write_evaluation
from tiny_training import tiny_config, tiny_model

from configs.load import load
from configs.schema import EvalConfig
from eval import provenance
from eval.provenance import describe_inputs, find_current_results
from eval.report.write import REPORT_FILES
from eval.run import main
from model.hub import save_pretrained

UNREACHABLE = "requirements=[{metric: places_retrieval/audio_to_image/recall_at_1, min: 2}]"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """An evaluated model; its requirement is not met."""
    root = tmp_path_factory.mktemp("world")
    settings = write_evaluation(root, video=False, benchmarks="[places_retrieval]", baselines="[chance]")
    config = tiny_config()
    torch.manual_seed(0)
    (root / "model").mkdir()
    save_pretrained(tiny_model(config), config.model, root / "model")
    (root / "model/history.jsonl").write_text('{"step": 1, "loss/total": 2.0}\n')
    arguments = [f"config={settings}", f"checkpoint={root / 'model'}", f"out={root / 'out'}", UNREACHABLE]
    assert main(load(EvalConfig, arguments)) == 1
    return arguments


def _path(arguments, key):
    return Path(next(a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")))


def _is_current(arguments):
    return find_current_results(load(EvalConfig, arguments), REPORT_FILES) is not None


@contextmanager
def _changed(path, content):
    """Inside this block a file has another content (None: it is missing); afterwards content and times are restored."""
    before, stat = path.read_bytes(), path.stat()
    path.unlink() if content is None else path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_second_run_prints_the_same_table_without_torch_and_keeps_exit_code_1(arguments, capsys):
    metrics = _path(arguments, "out") / "metrics.json"
    before = metrics.stat().st_mtime_ns
    program = (
        "import sys; from configs.cli import run; from eval.run import main; from configs.schema import EvalConfig\n"
    )
    program += "code = run(EvalConfig, '', main); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "places_retrieval/audio_to_image/recall_at_1" in done.stdout and "0 of 1 requirements met" in done.stdout
    assert "nothing to do: same checkpoint, settings, data and code" in done.stdout
    assert metrics.stat().st_mtime_ns == before
    os.utime(metrics, ns=(0, 0))  # older than the reports: evaluated again
    assert main(load(EvalConfig, arguments)) == 1
    assert metrics.stat().st_mtime_ns > before
    again = capsys.readouterr().out
    assert done.stdout.partition("nothing to do")[0] == again


@pytest.mark.parametrize("change", [["batch_size=3"], ["seed=1"], ["baselines=[]"], ["requirements=[]"]])
def test_changed_settings_are_evaluated_again(arguments, change):
    assert _is_current(arguments)
    key = change[0].partition("=")[0]
    assert not _is_current([*(a for a in arguments if not a.startswith(f"{key}=")), *change])


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "history.jsonl"])
def test_changed_checkpoint_is_evaluated_again(arguments, file):
    path = _path(arguments, "checkpoint") / file
    with _changed(path, path.read_bytes()[:-1] + b" "):
        assert not _is_current(arguments)
    assert _is_current(arguments)


def test_averaged_weights_take_the_place_of_the_others(arguments):
    folder = _path(arguments, "checkpoint")
    (folder / "ema.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" ")
    assert not _is_current(arguments)
    (folder / "ema.safetensors").unlink()
    assert _is_current(arguments)


def test_newer_step_of_a_run_folder_is_evaluated_again(arguments, tmp_path):
    config = load(EvalConfig, [*(a for a in arguments if not a.startswith("out=")), f"out={tmp_path}"])
    config.checkpoint = str(tmp_path / "run")
    for step in (2, 10):
        folder = tmp_path / f"run/checkpoints/step_{step:08d}"
        shutil.copytree(_path(arguments, "checkpoint"), folder)
        (folder / "config.json").write_text(f"{step}")
        inputs = describe_inputs(config, folder)
        (tmp_path / "metrics.json").write_text(
            json.dumps({"metrics": {}, "intervals": {}, "items": {}, "requirements": [], "about": inputs})
        )
        for name in REPORT_FILES:
            (tmp_path / name).touch()
            os.utime(tmp_path / name, ns=(0, 0))
        assert find_current_results(config, REPORT_FILES) is not None
        shutil.copytree(folder, tmp_path / f"run/checkpoints/step_{step + 1:08d}")
        (tmp_path / f"run/checkpoints/step_{step + 1:08d}/config.json").write_text("newer")
        assert find_current_results(config, REPORT_FILES) is None


@pytest.mark.parametrize("pattern", ["manifest.json", "*.tar"])
def test_changed_data_is_evaluated_again(arguments, pattern):
    config = load(EvalConfig, arguments)
    path = next(Path(config.data["places_audio"].root).glob(pattern))
    with _changed(path, path.read_bytes() + b" "):
        assert not _is_current(arguments)
    assert _is_current(arguments)
    config.data["places_audio"].root = "s3://bucket/shards"
    assert describe_inputs(config, ROOT)["data"] == "", "remote data cannot be compared"


def test_changed_source_file_or_package_version_is_evaluated_again(arguments, tmp_path, monkeypatch):
    for package in provenance.SOURCES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "ROOT", tmp_path)
        assert _is_current(arguments), "the same sources in another folder"
        with (tmp_path / "eval/metrics/retrieval.py").open("a") as file:
            file.write("# edited\n")
        assert not _is_current(arguments)
    metrics = _path(arguments, "out") / "metrics.json"
    stored = json.loads(metrics.read_bytes())
    stored["about"]["timm"] = "0.0.1"
    with _changed(metrics, json.dumps(stored).encode()):
        assert not _is_current(arguments)
    assert _is_current(arguments)


@pytest.mark.parametrize("file", ["metrics.json", "report.html", "report.md"])
def test_missing_output_is_evaluated_again(arguments, file):
    with _changed(_path(arguments, "out") / file, None):
        assert not _is_current(arguments)
    assert _is_current(arguments)


def test_broken_metrics_file_is_evaluated_again(arguments):
    for content in (b"{", b"{}", b'{"metrics": {}}', b'{"metrics": {}, "requirements": [{"x": 1}]}'):
        with _changed(_path(arguments, "out") / "metrics.json", content):
            assert not _is_current(arguments)
