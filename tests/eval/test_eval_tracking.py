"""eval.run tracker=...: the HParams tab of TensorBoard, a W&B run offline, trackers that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tiny_evaluation import wandb_history, wandb_records, write_evaluation
from tiny_training import save, tiny_config, tiny_model, tiny_state

from configs.load import load
from configs.schema import EvalConfig
from eval.results import Results, write_metrics
from eval.run import main
from eval.tracking import log_results, read_run_settings
from model.hub import save_pretrained

METRICS = {"vggss/median/ciou": 0.5, "is3/median/ciou": 0.25, "chance/vggss/median/ciou": 0.1}


def _evaluated(root: Path, name: str, lr: float, ciou: float) -> tuple[EvalConfig, Results, Path]:
    """A run with a checkpoint of step 7, and an evaluation of it with one picture."""
    run = tiny_config(f"name={name}", f"optim.lr={lr}", "steps=7")
    checkpoint = save(root / name / "checkpoints", 7, tiny_state(run), run)
    out = root / name
    results = Results(METRICS | {"vggss/median/ciou": ciou}, {}, [], about={"checkpoint": f"hash of {name}"})
    write_metrics(results, out)
    (out / "pictures").mkdir()
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(out / "pictures/vggss.jpg")
    return load(EvalConfig, [f"checkpoint={out}", f"out={out}", "tracker=tensorboard"]), results, checkpoint


def _hparams_tab(logdir: Path):
    """Rows of the HParams tab, as TensorBoard computes them: name -> (settings, metrics)."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    events = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    events.Reload()
    provider = MultiplexerDataProvider(events, str(logdir))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(logdir)))
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=9)
    request.allowed_statuses.extend(api_pb2.Status.values())
    found = list_session_groups.Handler(RequestContext(), context, "", request).run()
    return {
        group.name: (
            {key: value.number_value or value.string_value for key, value in group.hparams.items()},
            {metric.name.tag: (metric.value, metric.training_step) for metric in group.metric_values},
        )
        for group in found.session_groups
    }


def test_tensorboard_shows_a_row_for_each_evaluated_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_results(*_evaluated(tmp_path, "one", 0.001, 0.5))
    config, results, checkpoint = _evaluated(tmp_path, "two", 0.01, 0.75)
    for ciou in (0.75, 0.8):  # evaluated again
        results.metrics["vggss/median/ciou"] = ciou
        log_results(config, results, checkpoint)
    rows = _hparams_tab(tmp_path)
    assert sorted(rows) == ["one/tensorboard/evaluation", "two/tensorboard/evaluation"]
    settings, metrics = rows["two/tensorboard/evaluation"]
    assert settings["optim.lr"] == 0.01 and settings["model.embed_dim"] == 16 and settings["name"] == "two"
    assert settings["optim.betas"] == "[0.9, 0.999]"
    ciou, step = metrics["eval/vggss/median/ciou"]
    assert (round(ciou, 6), step) == (0.8, 7) and metrics["eval/is3/median/ciou"] == (0.25, 7)
    assert not any("chance" in key for key in metrics)
    (image,) = EventAccumulator(str(tmp_path / "one/tensorboard/evaluation")).Reload().Images("media/vggss/heatmaps")
    assert (image.width, image.height, image.step) == (50, 30, 7)


def test_exported_model_has_the_settings_of_its_architecture(tmp_path):
    config = tiny_config()
    save_pretrained(tiny_model(config), config.model, tmp_path)
    settings, step = read_run_settings(tmp_path)
    assert step == 0 and settings["model"]["embed_dim"] == 16 and settings["inputs"]["image_size_px"] == 32


def test_failed_tracker_is_one_warning_and_stored_results_are_logged_later(tmp_path, capsys):
    settings = write_evaluation(tmp_path / "world", video=False, benchmarks="[places_retrieval]", baselines="[chance]")
    config = tiny_config()
    (tmp_path / "model").mkdir()
    save_pretrained(tiny_model(config), config.model, tmp_path / "model")
    arguments = [f"config={settings}", f"checkpoint={tmp_path}/model", f"out={tmp_path}/out", "tracker=tensorboard"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tensorboard").write_text("a file with the name of the folder")
    assert main(load(EvalConfig, arguments)) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert "tracker=tensorboard failed (NotADirectoryError" in warning and "metrics.json and the report" in warning
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]
    assert "places_retrieval/audio_to_image/recall_at_1" in metrics and (tmp_path / "out/report.html").is_file()

    (tmp_path / "out/tensorboard").unlink()
    assert main(load(EvalConfig, arguments)) == 0 and "nothing to do" in capsys.readouterr().out
    ((_, logged),) = _hparams_tab(tmp_path / "out").values()
    key = "places_retrieval/audio_to_image/recall_at_1"
    assert logged[f"eval/{key}"][0] == pytest.approx(metrics[key])


LOG = """
import sys
from pathlib import Path
from configs.load import load
from configs.schema import EvalConfig
from eval.results import read_metrics, results_from_json
from eval.tracking import log_results

out = Path(sys.argv[1])
config = load(EvalConfig, [f"checkpoint={out}", f"out={out}", "tracker=wandb"])
log_results(config, results_from_json(read_metrics(out)), out / "checkpoints/step_00000007")
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("server", ["none", "unreachable"])
def test_wandb_gets_settings_metrics_and_pictures_offline_without_a_key_or_a_server(tmp_path, server):
    _evaluated(tmp_path, "one", 0.001, 0.5)
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "WANDB_API_KEY": ""}
    environment |= {"WANDB_MODE": "offline"}
    if server == "unreachable":
        environment |= {"WANDB_API_KEY": 40 * "k", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "5"}
        del environment["WANDB_MODE"]
    done = subprocess.run(
        [sys.executable, "-c", LOG, str(tmp_path / "one")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == (server == "unreachable") and all("logging offline" in line for line in warnings)

    (file,) = (tmp_path / "one").glob("wandb/offline-run-*/run-*.wandb")
    (begun,) = (record.run for record in wandb_records(file) if record.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.project, begun.display_name, begun.job_type) == ("denseav", "one-evaluation", "evaluation")
    assert config["optim"]["lr"] == 0.001 and config["evaluation"] == {"checkpoint": "hash of one"}
    (line,) = wandb_history(file)
    assert line["_step"] == 7 and line["eval/vggss/median/ciou"] == 0.5
    picture = file.parent / "files" / line["media/vggss/heatmaps"]["path"]
    assert picture.read_bytes() == (tmp_path / "one/pictures/vggss.jpg").read_bytes()
    summaries = (record.summary for record in wandb_records(file) if record.WhichOneof("record_type") == "summary")
    summary = {item.key: item.value_json for update in summaries for item in update.update if item.key}
    assert float(summary["eval/chance/vggss/median/ciou"]) == 0.1
