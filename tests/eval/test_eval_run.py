"""eval.run on small real data: files, baselines, requirements, exit codes."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT
from tiny_media import write_video
from tiny_prompted import write_prompted
from tiny_shards import write_data_set

from configs.cli import run
from configs.load import load
from configs.schema import EvalConfig, ModelConfig
from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.gallery import Gallery
from eval.report.write import report_folder
from eval.run import check_requirement, main
from model.build import build_denseav
from model.denseav import InputSpec
from model.hub import from_pretrained, resolve_checkpoint, save_pretrained, untrained
from model.training.tracking import History

CONFIG = ModelConfig(embed_dim=16, num_heads=2, audio_projection="linear", image_pool_size=1)
ALL = ["ade20k_speech", "ade20k_sound", "places_retrieval", "audioset_retrieval", "disentanglement"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run folder with a model of random weights, prompted images, two evaluation splits, a video."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    (root / "run").mkdir()
    save_pretrained(build_denseav(CONFIG, InputSpec(64, 1.0, 16000)), CONFIG, root / "run")
    history = History(root / "run/history.jsonl", 0)
    for step in (10, 20):
        history.add(step, {"loss/total": 4.0 / step, "logit_scale": 1.0})
    write_prompted(root / "prompted")
    rng = np.random.default_rng(0)
    write_data_set(root / "places", [6, 5], duration_s=0.8, frames=1)
    write_data_set(root / "audioset", [12], duration_s=1.0, prefix="video", changes={3: {"flac": rng.bytes(100)}})
    write_video(root / "a.mp4", 1.0)
    return root


def _arguments(world, *more):
    return [
        f"checkpoint={world}/run", f"out={world}/out", f"data.prompted_ade20k.root={world}/prompted",
        f"data.places_audio.root={world}/places", f"data.audioset.root={world}/audioset",
        f"benchmarks={ALL}", "gallery_size=11", "batch_size=4", *more,
    ]  # fmt: skip


def test_command_writes_metrics_with_baselines_and_a_report(world, capsys):
    assert main(load(EvalConfig, _arguments(world, f"video={world}/a.mp4"))) == 0
    written = json.loads((world / "out/metrics.json").read_text())
    keys = set(written["metrics"])
    assert {
        "ade20k_speech/advanced/miou",
        "ade20k_sound/basic/map",
        "places_retrieval/audio_to_image/recall_at_10",
    } <= keys
    assert {
        "audioset_retrieval/image_to_audio/recall_at_1",
        "disentanglement/heads/pred_dis",
        "disentanglement/heads/head_1_win_rate",
    } <= keys
    assert {
        "chance/ade20k_speech/basic/map",
        "untrained/ade20k_speech/basic/map",
        "shuffled_prompts/ade20k_sound/basic/map",
    } <= keys
    assert all(0 <= value <= 1 for value in written["metrics"].values())
    assert written["metrics"]["chance/places_retrieval/audio_to_image/recall_at_5"] == pytest.approx(5 / 11)
    assert written["metrics"]["disentanglement/heads/head_0_win_rate"] + written["metrics"][
        "disentanglement/heads/head_1_win_rate"
    ] == pytest.approx(1)
    assert (
        written["items"]["audioset_retrieval/left_out_bad_audio"] == 1
        and written["items"]["audioset_retrieval/items"] == 11
    )
    report = (world / "out/report.html").read_text()
    assert (
        "data:video/mp4" in report
        and "loss/total" in report
        and f"{written['metrics']['ade20k_sound/basic/map']:.3f}" in report
    )
    assert "ade20k_sound/basic/map" in capsys.readouterr().out


def test_metrics_do_not_depend_on_the_batch_size(world):
    arguments = [a for a in _arguments(world, "baselines=[]") if not a.startswith("batch_size")]
    numbers = []
    for batch_size in (3, 11):
        main(load(EvalConfig, [*arguments, f"batch_size={batch_size}"]))
        numbers.append(json.loads((world / "out/metrics.json").read_text())["metrics"])
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6)


def test_requirements_that_are_not_met_are_printed_and_exit_with_1(world, capsys):
    baseline = "chance/ade20k_sound/basic/map"
    metric = "metric: ade20k_sound/basic/map"
    require = (
        f"requirements=[{{{metric}, min: 0.0}}, {{{metric}, min: 50, ratio_to: {baseline}}}, {{metric: vggss/a/b}}]"
    )
    assert main(load(EvalConfig, _arguments(world, require))) == 1
    printed = capsys.readouterr().out
    assert (
        "PASS  ade20k_sound/basic/map" in printed
        and f"required >= 50 x {baseline}" in printed
        and "1 of 3 requirements met; metrics of 1 were not measured" in printed
    )
    assert [r["passed"] for r in json.loads((world / "out/metrics.json").read_text())["requirements"]] == [
        True,
        False,
        False,
    ]


def test_requirement_compares_with_a_number_a_sum_or_a_multiple():
    config = load(
        EvalConfig,
        [
            "requirements=[{metric: a, min: 0.2}, {metric: a, min: 0.1, baseline: b}, {metric: a, min: 3, ratio_to: b},"
            " {metric: c}]"
        ],
    )
    outcomes = [check_requirement(requirement, {"a": 0.5, "b": 0.2}) for requirement in config.requirements[:3]]
    assert [o.passed for o in outcomes] == [True, True, False]
    missing = check_requirement(config.requirements[3], {"a": 0.5, "b": 0.2})
    assert not missing.passed and "c was not measured" in missing.condition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "/nowhere"}, "checkpoint=/nowhere: no model found"),
        ({"checkpoint": ""}, "checkpoint= is missing"),
        ({"benchmarks": "[vgg]"}, "vgg.*allowed are ade20k_speech"),
        ({"benchmarks": "[]"}, "allowed are ade20k_speech"),
        ({"data.audioset.root": ""}, "data.audioset.root= is missing"),
        ({"data.places_audio.root": "/nowhere"}, "/nowhere"),
        (
            {"data.prompted_ade20k.root": "/nowhere"},
            "data.prompted_ade20k.root: /nowhere: no prompted_segmentation.csv",
        ),
        ({"baselines": "[luck]"}, "baselines.0=luck: allowed are chance, untrained, shuffled_prompts"),
    ],
)
def test_invalid_settings_are_one_error_line_before_the_evaluation(world, change, message, capsys):
    arguments = [a for a in _arguments(world) if a.partition("=")[0] not in change]
    assert run(EvalConfig, "doc", main, [*arguments, *(f"{k}={v}" for k, v in change.items())]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    import re

    assert re.search(message, error), error


def test_output_folder_that_cannot_be_written_is_refused_before_the_evaluation(world, tmp_path, capsys):
    arguments = [argument for argument in _arguments(world) if not argument.startswith("out=")]
    (tmp_path / "report.html").mkdir()
    assert run(EvalConfig, "doc", main, [*arguments, f"out={tmp_path}"]) == 2
    assert "report.html in it is a folder" in capsys.readouterr().err
    assert run(EvalConfig, "doc", main, [*arguments, f"out={tmp_path / ('x' * 300)}"]) == 1
    assert "File name too long" in capsys.readouterr().err
    with report_folder(tmp_path / "held"):
        assert run(EvalConfig, "doc", main, [*arguments, f"out={tmp_path / 'held'}"]) == 2
    error = capsys.readouterr().err
    assert "is being written by another command" in error and error.count("\n") == 1


def test_checkpoint_with_pretrained_encoders_loads_without_the_pretrained_files(tmp_path):
    config = ModelConfig(**vars(CONFIG) | {"image_encoder": "vit_tiny_patch16_224", "image_weights": "random"})
    model = build_denseav(config, InputSpec(64, 1.0, 16000))
    save_pretrained(model, dataclasses.replace(config, image_weights=str(tmp_path / "gone.safetensors")), tmp_path)
    state = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    one, same, other = (untrained(tmp_path, seed).state_dict() for seed in (0, 0, 1))
    name = next(name for name in one if name.startswith("image_encoder") and name.endswith("proj.weight"))
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


@pytest.mark.parametrize(
    "content",
    [b'{"model": ', b"\xff\xfe", b"[1]", b'{"model": {}}', b'{"model": {"num_heads": 2}, "inputs": {"x": 1}}'],
)
def test_damaged_model_config_is_one_error_line(world, tmp_path, content):
    shutil.copy(resolve_checkpoint(world / "run") / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json was not written by save_pretrained"):
        from_pretrained(tmp_path)


def test_gallery_is_drawn_by_its_seed_and_encoded_once_per_model(world):
    model = from_pretrained(world / "run")
    gallery, again, other = (Gallery(str(world / "audioset"), 5, 4, seed) for seed in (0, 0, 1))
    features = gallery.encode(model)
    assert gallery.encode(model) is features
    pictures, same, others = (each.encode(model).image.dense for each in (gallery, again, other))
    assert torch.equal(same, pictures) and not torch.equal(others, pictures)
    assert Retrieval("audioset_retrieval", gallery).evaluate(model).items["items"] == 5


def test_disentanglement_is_skipped_with_a_message_for_one_head(world, tmp_path, capsys):
    single = ModelConfig(**(vars(CONFIG) | {"num_heads": 1}))
    save_pretrained(build_denseav(single, InputSpec(64, 1.0, 16000)), single, tmp_path)
    arguments = [a for a in _arguments(world, "baselines=[]") if not a.startswith(("checkpoint", "out"))]
    assert main(load(EvalConfig, [*arguments, f"checkpoint={tmp_path}", f"out={tmp_path}"])) == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        not any(key.startswith("disentanglement") for key in written["metrics"])
        and written["items"]["disentanglement/items"] == 0
    )
    assert "disentanglement: not measured, the model has one head" in capsys.readouterr().err


@pytest.mark.slow
def test_command_runs_as_a_process(world):
    done = subprocess.run(
        [sys.executable, "-m", "eval.run", *_arguments(world, "baselines=[chance]")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
