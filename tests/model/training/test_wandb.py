"""Real offline W&B runs, read back from their files: history, settings, media, artifacts, resuming, killed service."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest
from paths import ROOT
from PIL import Image
from tiny_evaluation import wandb_history, wandb_records, write_evaluation
from tiny_runs import run, settings_of_a_run

from eval.benchmarks.registry import KINDS
from eval.workspace import SECTIONS, picture_keys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """An environment without a key."""
    return {"WANDB_API_KEY": "", "HOME": str(tmp_path_factory.mktemp("home")), "PYTHONWARNINGS": "default"}


def _files(out) -> list[Path]:
    return sorted(out.glob("a/wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def test_run_logs_history_and_media_and_resumes_the_same_wandb_run(offline, tmp_path):
    evaluation = write_evaluation(tmp_path / "world")
    settings = [
        *settings_of_a_run(tmp_path / "data"),
        "tracker=wandb",
        f"evaluate.config={evaluation}",
        "evaluate.every_steps=2",
        "checkpoint.upload=last",
    ]
    for steps in (3, 5):
        done = run(settings, tmp_path / "out", f"steps={steps}", environment=offline)
        assert done.returncode == 0, done.stderr
    first, second = _files(tmp_path / "out")
    run_id = (tmp_path / "out/a/wandb_run_id").read_text().strip()
    assert first.name == second.name == f"run-{run_id}.wandb"

    (begun,) = (record.run for record in wandb_records(first) if record.WhichOneof("record_type") == "run")
    later = (record.config for record in wandb_records(first) if record.WhichOneof("record_type") == "config")
    logged_settings = {
        item.key: json.loads(item.value_json) for config in (begun.config, *later) for item in config.update
    }
    assert (begun.run_id, begun.project, begun.display_name) == (run_id, "denseav", "a") and begun.resume
    assert logged_settings["optim"]["lr"] == 0.001 and logged_settings["stream"]["sources"][0]["name"] == "first"

    lines = wandb_history(first)
    assert [line["_step"] for line in lines] == [1, 2, 3] and [line["_step"] for line in wandb_history(second)] == [
        4,
        5,
    ]
    logged = [json.loads(line) for line in (tmp_path / "out/a/history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 2, 3, 3, 4, 4, 5, 5]
    for line in logged:
        sent = next(sent for sent in lines + wandb_history(second) if sent["_step"] == line["step"])
        assert all(
            sent[key] == pytest.approx(value, rel=1e-5, abs=1e-5) for key, value in line.items() if key != "step"
        )
    assert {
        "loss/total",
        "loss/info_nce",
        "logit_scale",
        "scores/positive",
        "scores/negative",
        "heads/win_rate_1",
        "grad_norm",
        "grad_norm/audio_projection",
        "lr",
    } <= {*lines[0]}
    assert {"clips_per_s", "data_time_fraction", "memory/host_gb", "skipped_steps"} <= {
        *lines[0]
    } and "grad_norm/image_encoder" not in lines[0]
    evaluated = [line for line in (*lines, *wandb_history(second)) if "eval/ade20k_sound/basic/map" in line]
    baselines = {"eval/chance/ade20k_sound/basic/map", "eval/untrained/disentanglement/heads/pred_dis"}
    assert lines[1] in evaluated and all(baselines <= line.keys() for line in evaluated)

    files = first.parent / "files"
    for name, width_px in (("ade20k_speech/heatmaps", 5 * 160), ("places_retrieval/similarity", 477)):
        with Image.open(files / lines[1][f"media/{name}"]["path"]) as image:
            assert image.width == lines[1][f"media/{name}"]["width"] == width_px
    with av.open(str(files / lines[2]["media/heatmap"]["path"])) as video:
        assert {stream.type for stream in video.streams} == {"video", "audio"} and sum(
            1 for _ in video.decode(video=0)
        ) == 10
    table = json.loads((files / lines[1]["media/audioset_retrieval/best"]["path"]).read_text())
    assert (
        table["columns"][:3] == ["image", "clip", "rank of its audio"]
        and len(table["data"]) == 8
        and "label" in table["data"][0][1]
    )
    _check_artifacts(first, tmp_path, 3)
    _check_artifacts(second, tmp_path, 5)
    _check_workspace(logged, [*lines, *wandb_history(second)])

    staged = [
        content.local_path
        for record in wandb_records(first)
        if record.WhichOneof("record_type") == "artifact"
        for content in record.artifact.manifest.contents
    ]
    assert len(staged) > 16 and all(
        Path(path).is_file() and Path(path).is_relative_to(tmp_path / "out") for path in staged
    )  # images of the tables


def _check_artifacts(file: Path, root: Path, step: int) -> None:
    """The artifacts of a finished run: two data sets, and the model of its last checkpoint."""
    artifacts = {
        record.artifact.name: record.artifact
        for record in wandb_records(file)
        if record.WhichOneof("record_type") == "artifact" and record.artifact.type in ("dataset", "model")
    }
    checkpoint = root / f"out/a/checkpoints/step_{step:08d}"
    files = {
        name: {content.path: Path(content.local_path).read_bytes() for content in artifact.manifest.contents}
        for name, artifact in artifacts.items()
    }
    metadata = {name: json.loads(artifact.metadata) for name, artifact in artifacts.items()}
    stored = json.loads((checkpoint / "state.json").read_text())["stream"]
    assert set(artifacts) == {"first", "second", "a"} and metadata["a"]["stream"] == stored
    for name in ("first", "second"):
        assert set(files[name]) == {"fingerprint.json", "manifest.json"} and artifacts[name].type == "dataset"
        assert files[name]["manifest.json"] == (root / "data" / name / "manifest.json").read_bytes()
        assert metadata[name]["fingerprint"] == stored["sources"][name]["data_set"]
    assert set(files["a"]) == {"checkpoint_manifest.json", "config.json", "model.safetensors"}
    assert set(artifacts["a"].aliases) == {"latest", f"step_{step}"} and artifacts["a"].type == "model"
    assert hashlib.sha256(files["a"]["model.safetensors"]).hexdigest() == metadata["a"]["sha256"]["model.safetensors"]
    assert files["a"]["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


def _check_workspace(history: list[dict], sent: list[dict]) -> None:
    """Each key that the run logs is on a panel, and each panel has a key, but for what only other runs log."""
    keys = {key for line in history for key in line} - {"step"}
    panels = [line for lines in SECTIONS.values() for line in lines]
    assert not [key for key in keys if not any(re.search(line.regex, key) for line in panels)]
    empty = {line.title for line in panels if not any(re.search(line.regex, key) for key in keys)}
    assert empty == {"Model FLOPs utilization", "Rejected clips by reason", "cIoU and IoU AUC"}
    media = {key for line in sent for key in line if key.startswith("media/")}
    assert media and not media - {key for keys in picture_keys(list(KINDS)).values() for key in keys}


SERVICE_KILLED = """
import os, signal, sys, time
from pathlib import Path
from accelerate import Accelerator
from tiny_training import tiny_config
from model.training.tracking import RunLogger, tracker_names

folder, sent = Path(sys.argv[1]), getattr(signal, sys.argv[2])
config = tiny_config("tracker=wandb", "steps=4", "name=a")
accelerator = Accelerator(cpu=True, log_with=tracker_names("wandb"), project_dir=folder)
with RunLogger(accelerator, config, folder, 0) as log:
    for step in (1, 2):
        log.add(step, {"loss/total": 1.0})
    time.sleep(1)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\\0")
        if b"wandb-core" in words[0] and str(os.getpid()).encode() in words:
            os.kill(int(path.parent.name), sent)
    time.sleep(1)
    for step in (3, 4):
        log.add(step, {"loss/total": 1.0})
accelerator.end_training()
print("run continues")
"""


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGKILL"])
def test_run_continues_after_its_wandb_service_was_killed(offline, tmp_path, sent):
    environment = os.environ | offline | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    (tmp_path / "a").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE_KILLED, str(tmp_path / "a"), sent],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and "run continues" in done.stdout, done.stderr
    assert done.stderr.count("warning: tracker=wandb failed") == 1 and "Traceback" not in done.stderr
    assert len((tmp_path / "a/history.jsonl").read_text().splitlines()) == 4
    (file,) = _files(tmp_path)
    assert len(wandb_history(file)) <= 2 and "offline" in file.parent.name


LOGGER_ONLY = """
import sys
from pathlib import Path
from accelerate import Accelerator
from tiny_training import tiny_config
from model.training.tracking import RunLogger, tracker_names

config = tiny_config("tracker=wandb", "steps=4", "name=a")
with RunLogger(Accelerator(cpu=True, log_with=tracker_names("wandb")), config, Path(sys.argv[1]), 0) as log:
    for step in (1, 2):
        log.add(step, {"loss/total": 1.0})
"""


def test_run_writes_offline_if_the_server_does_not_answer(offline, tmp_path):
    (tmp_path / "a").mkdir()
    unreachable = {"WANDB_API_KEY": 40 * "k", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "5"}
    environment = os.environ | offline | unreachable | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    done = subprocess.run(
        [sys.executable, "-c", LOGGER_ONLY, str(tmp_path / "a")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and done.stderr.count("warning: W&B does not start") == 1, done.stderr
    (file,) = _files(tmp_path)
    assert [line["_step"] for line in wandb_history(file)] == [1, 2]
