"""Evaluation during training: the metrics of eval.run, on any number of ranks, without an effect on the training."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny_evaluation import write_evaluation
from tiny_mel_shards import MEL_MODEL, write_mel_shards
from tiny_shards import write_data_set
from tiny_training import backward, tiny_config, tiny_model

from configs.errors import UsageError
from configs.load import load
from configs.schema import EvalConfig
from eval import run
from eval.benchmarks.retrieval.gallery import Gallery
from eval.periodic import PeriodicEvaluation
from model.hub import save_pretrained
from model.training.ema import ModelEma
from model.training.tracking import Media, RunLogger


class Log(RunLogger):
    """Records what is logged."""

    def __init__(self):
        self.added, self.shown = [], []

    def add(self, step, values):
        self.added.append((step, dict(values)))

    def log_media(self, step, media: Media):
        self.shown.append((step, media))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    """Settings with one benchmark, which takes a second."""
    root = tmp_path_factory.mktemp("retrieval")
    return write_evaluation(root, video=False, benchmarks="[places_retrieval]", baselines="[untrained]")


def _evaluation(settings, folder, *arguments, stop_reason=lambda: False):
    config = tiny_config(f"evaluate.config={settings}", "evaluate.every_steps=2", "steps=5", *arguments)
    return PeriodicEvaluation(config, folder, stop_reason), config


def _by_the_command(settings, model, config, folder, weights=None):
    """metrics.json of eval.run on a checkpoint with these weights."""
    folder.mkdir()
    saved = copy.deepcopy(model)
    saved.load_state_dict(weights or model.state_dict())
    save_pretrained(saved, config.model, folder)
    assert run.main(load(EvalConfig, [f"config={settings}", f"checkpoint={folder}", f"out={folder}", "video="])) == 0
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def _save(model, config, folder):
    folder.mkdir(parents=True)
    save_pretrained(model, config.model, folder)


def _step(model, ema, number):
    backward(model, number)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    ema.update(model, number)


def test_metrics_and_baselines_equal_those_of_the_command(settings, tmp_path):
    evaluation, config = _evaluation(settings, tmp_path)
    model, log = tiny_model(config).train(), Log()
    ema = ModelEma(model, 0.5)
    assert evaluation.maybe_evaluate(1, model, ema, log) == {}
    for number in (2, 5):
        _step(model, ema, number)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random = torch.random.get_rng_state()
        found = evaluation.maybe_evaluate(number, model, ema, log)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(random, torch.random.get_rng_state())
        expected = _by_the_command(settings, model, config, tmp_path / str(number), ema.weights(model))
        assert {
            "chance/ade20k_sound/basic/map",
            "untrained/places_retrieval/image_to_audio/recall_at_1",
        } <= found.keys()
        assert found == pytest.approx(expected, abs=1e-6)
    (first, at_first), (second, at_second) = log.added
    assert evaluation.maybe_evaluate(5, model, ema, log) == {}, "already evaluated"
    assert (first, second) == (2, 5) and set(at_second) == {f"eval/{key}" for key in found}
    assert at_first["eval/ade20k_sound/basic/map"] != at_second["eval/ade20k_sound/basic/map"]


def test_last_step_is_always_evaluated_and_leaves_the_files_of_the_command(settings, tmp_path, capsys):
    (tmp_path / "history.jsonl").write_text('{"step": 2, "eval/chance/ade20k_sound/basic/map": 0.1}\n')
    evaluation, config = _evaluation(settings, tmp_path)
    model = tiny_model(config).train()
    assert evaluation.maybe_evaluate(2, model, None, Log()) == {}, "evaluated before the run was resumed"
    evaluation.write_report()
    assert not (tmp_path / "metrics.json").exists()
    found = evaluation.maybe_evaluate(5, model, None, Log())
    _save(model, config, tmp_path / "checkpoints/step_00000005")
    evaluation.write_report()
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == found
    assert "<video" in (tmp_path / "report.html").read_text() and (tmp_path / "report.md").is_file()
    assert f"report: {tmp_path}/report.html" in capsys.readouterr().out
    arguments = [f"config={settings}", f"checkpoint={tmp_path}", f"out={tmp_path}"]
    assert run.main(load(EvalConfig, arguments)) == 0 and "nothing to do" in capsys.readouterr().out


def test_a_requirement_on_the_untrained_model_is_checked_in_every_evaluation(retrieval, tmp_path):
    key = "places_retrieval/audio_to_image/recall_at_1"
    requirement = f"requirements: [{{metric: {key}, min: 0, ratio_to: untrained/{key}}}]"
    (tmp_path / "eval.yaml").write_text(f"{retrieval.read_text()}{requirement}\n")
    evaluation, config = _evaluation(tmp_path / "eval.yaml", tmp_path)
    model = tiny_model(config).train()
    evaluation.maybe_evaluate(2, model, None, Log())
    evaluation.maybe_evaluate(5, model, None, Log())
    _save(model, config, tmp_path / "checkpoints/step_00000005")
    evaluation.write_report()
    (found,) = json.loads((tmp_path / "metrics.json").read_text())["requirements"]
    assert found["passed"] and "was not measured" not in found["condition"]


def test_a_report_that_cannot_be_written_is_a_warning(retrieval, tmp_path, capsys):
    evaluation, config = _evaluation(retrieval, tmp_path)
    model = tiny_model(config).train()
    evaluation.maybe_evaluate(5, model, None, Log())
    _save(model, config, tmp_path / "checkpoints/step_00000005")
    (tmp_path / "metrics.json").mkdir()
    evaluation.write_report()
    assert f"warning: no report: out={tmp_path}: metrics.json in it is a folder" in capsys.readouterr().err


def test_tracker_gets_heatmaps_similarities_tables_and_a_video_with_audio(settings, tmp_path):
    import av

    evaluation, config = _evaluation(settings, tmp_path)
    log = Log()
    evaluation.maybe_evaluate(2, tiny_model(config).train(), None, log)
    ((step, media),) = log.shown
    assert step == 2 and set(media.images) == {
        *(
            f"media/{task}/heatmaps"
            for task in ("ade20k_speech", "ade20k_sound", "places_retrieval", "audioset_retrieval")
        ),
        *(f"media/{task}/similarity" for task in ("places_retrieval", "audioset_retrieval")),
    }
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.std() > 5 for image in media.images.values())
    table = media.tables["media/audioset_retrieval/best"]
    assert len(table.rows) == 8 and all(len(row) == len(table.columns) == 8 for row in table.rows)
    image, clip, rank, *best = table.rows[0]
    assert image.shape == (32, 32, 3) and clip.startswith("video") and ": label" in clip and 1 <= rank <= 9
    assert [text.startswith("* ") for text in best] == [rank == n for n in range(1, 6)]
    with av.open(str(media.videos["media/heatmap"])) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}


def test_interrupted_evaluation_gives_no_metrics(settings, tmp_path):
    asked = []
    evaluation, config = _evaluation(settings, tmp_path, stop_reason=lambda: len(asked) > 6 or asked.append(1))
    model, log = tiny_model(config).train(), Log()
    assert evaluation.maybe_evaluate(2, model, None, log) == {} and not log.added and not log.shown
    assert len(asked) == 7 and model.training and not evaluation.evaluated_steps


def test_failed_evaluation_is_a_warning_and_training_continues(settings, tmp_path, monkeypatch, capsys):
    evaluation, config = _evaluation(settings, tmp_path)
    model, log = tiny_model(config).train(), Log()
    with monkeypatch.context() as broken:
        broken.setattr(Gallery, "encode", lambda *_: (_ for _ in ()).throw(UsageError("clip c1 has sound at 44100 Hz")))
        assert evaluation.maybe_evaluate(2, model, None, log) == {} and not log.added and model.training
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "warning: evaluation after step 2 failed: clip c1 has sound at 44100 Hz; training continues"
    )
    found = evaluation.maybe_evaluate(4, model, None, log)
    assert (
        "after step 4, places_retrieval: audio_to_image/recall_at_1 "
        f"{found['places_retrieval/audio_to_image/recall_at_1']:.3f}, " in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("baselines: [luck]", "baselines.0=luck: allowed are"),
        ("video: /nowhere.mp4", "video=/nowhere.mp4: no such file"),
        ("benchmarks: [x]", "allowed are ade20k_speech"),
    ],
)
def test_invalid_evaluation_settings_are_refused_before_training(settings, tmp_path, line, message):
    kept = [text for text in settings.read_text().splitlines() if text.partition(":")[0] != line.partition(":")[0]]
    (tmp_path / "eval.yaml").write_text("\n".join([*kept, line]))
    with pytest.raises(UsageError, match=message):
        _evaluation(tmp_path / "eval.yaml", tmp_path)


@pytest.mark.slow
def test_run_stopped_during_an_evaluation_repeats_it_after_resuming(tmp_path):
    from tiny_runs import settings_of_a_run, start, steps_saved, wait
    from tiny_shards import write_data_set

    world = write_evaluation(tmp_path / "world", video=False, benchmarks="[places_retrieval]", baselines="[]")
    write_data_set(tmp_path / "many", [2000], frames=1)
    lines = [
        line
        for line in world.read_text().splitlines()
        if not line.startswith(("  places_audio", "gallery_size", "batch_size"))
    ]
    wanted = [*lines, f"  places_audio: {{root: {tmp_path}/many}}"]
    world.write_text("\n".join([*wanted, "gallery_size: 2000", "batch_size: 1"]))
    settings = [
        *settings_of_a_run(tmp_path / "data"),
        f"evaluate.config={world}",
        "evaluate.every_steps=2",
        "checkpoint.every_steps=100",
    ]
    out, history = tmp_path / "out", tmp_path / "out/a/history.jsonl"
    process = start(settings, out)
    wait(lambda: history.exists() and history.read_text().count("\n") == 2, process)
    process.terminate()
    assert process.wait(60) == 75, (out / "output").read_text()
    assert (out / "a/REQUEUE").read_text() == "SIGTERM after step 2\n" and steps_saved(out) == [2]
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == [
        1,
        2,
    ]  # no line of the evaluation

    world.write_text("\n".join([*wanted, "gallery_size: 9"]))
    process = start(settings, out)
    assert process.wait(120) == 0, (out / "output").read_text()
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/places_retrieval/audio_to_image/recall_at_1" in line] == [
        2,
        4,
        6,
    ], "the interrupted evaluation is repeated"
    assert [line["step"] for line in lines if "loss/total" in line] == [1, 2, 3, 4, 5, 6]


def _retrieval_settings(root, shards, audio=""):
    """Settings of an evaluation that runs retrieval on these shards alone."""
    settings = root / f"eval{audio}.yaml"
    lines = ["benchmarks: [own]", "baselines: [chance]", f"data: {{own: {{kind: retrieval, root: {shards}}}}}"]
    settings.write_text("\n".join([*lines, "batch_size: 4", *([f"audio: {audio}"] if audio else [])]) + "\n")
    return settings


def test_a_run_on_log_mel_is_evaluated_on_log_mel(tmp_path):
    shards = write_mel_shards(tmp_path / "set", [6], with_waveform=False)
    settings = _retrieval_settings(tmp_path, shards)
    evaluation, config = _evaluation(settings, tmp_path, *MEL_MODEL, "stream.audio=log_mel")
    model = tiny_model(config).train()
    found = evaluation.maybe_evaluate(2, model, None, Log())
    assert "own/audio_to_image/recall_at_1" in found
    expected = Gallery(shards, 6, 4, 0, audio="log_mel").encode(model.eval()).audio.dense
    assert torch.equal(evaluation.benchmarks["own"].gallery.encode(model).audio.dense, expected)
    with pytest.raises(UsageError, match=r"data.own.root: .* stores log-mel and no waveforms"):
        _evaluation(settings, tmp_path, *MEL_MODEL)


def test_audio_of_the_evaluation_settings_comes_before_that_of_the_run(tmp_path):
    shards = write_mel_shards(tmp_path / "set", [4])
    for own in ("waveform", "log_mel"):
        for of_run in ("waveform", "log_mel"):
            settings = _retrieval_settings(tmp_path, shards, own)
            evaluation, _ = _evaluation(settings, tmp_path, *MEL_MODEL, f"stream.audio={of_run}")
            assert evaluation.benchmarks["own"].gallery.audio == own


def test_audio_that_the_evaluation_cannot_read_is_an_error_before_training(tmp_path):
    write_data_set(tmp_path / "waveforms", [4], duration_s=0.8)
    settings = _retrieval_settings(tmp_path, tmp_path / "waveforms")
    with pytest.raises(UsageError, match=r"data.own.root: .* no clip has a member .mel.npy"):
        _evaluation(settings, tmp_path, *MEL_MODEL, "stream.audio=log_mel")
    settings = _retrieval_settings(tmp_path, tmp_path / "waveforms", "log_mel")
    with pytest.raises(UsageError, match=r"evallog_mel.yaml: audio=log_mel needs an audio encoder on log-mel"):
        _evaluation(settings, tmp_path)
