"""Retrieval and disentanglement on a gallery: scores in parts, intervals, duplicates, published tables."""

import json
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from tiny_gallery import recorded_calls
from tiny_shards import write_data_set

from configs.errors import CommandFailed
from configs.schema import DataConfig, EvalConfig, ToyWorldConfig
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval import benchmark as retrieval
from eval.benchmarks.retrieval.benchmark import Retrieval, all_scores
from eval.benchmarks.retrieval.disentanglement import HeadDisentanglement
from eval.benchmarks.retrieval.gallery import Gallery, PairFeatures
from eval.metrics.bootstrap import interval
from eval.metrics.retrieval import recall_at_k
from model.denseav import AudioFeatures, ImageFeatures
from pipelines.toy_world import layouts


def _features(pairs, channels=8, side=3, steps=5):
    image = ImageFeatures(torch.randn(pairs, 2, channels, side, side), None)
    return PairFeatures(
        image, AudioFeatures(torch.randn(pairs, 2, channels, steps), torch.rand(pairs, steps) < 0.9, None)
    )


def test_scores_in_parts_equal_scores_computed_at_once(model, monkeypatch):
    features = _features(37)
    at_once = model.similarity_per_head(*features).sum(dim=-1)
    for numbers in (1, 500, 10**6):
        monkeypatch.setattr(retrieval, "MAX_SCORES", numbers)
        with recorded_calls(
            model, "similarity_per_head", lambda image, audio: len(audio.mask) * len(image.dense) * 2
        ) as calls:
            tiled = all_scores(features, model)
        assert torch.allclose(tiled, at_once, atol=1e-5) and max(calls) <= max(numbers, 37 * 2)
        assert all(recall_at_k(tiled, k) == recall_at_k(at_once, k) for k in (1, 5, 10))


def test_recall_and_intervals_follow_from_the_scores(shards, model):
    gallery = Gallery(str(shards), 11, 4, 0)
    measured = Retrieval("places_retrieval", gallery).evaluate(model)
    scores = model.similarity_per_head(*gallery.encode(model)).sum(dim=-1)
    assert measured.metrics["audio_to_image/recall_at_5"] == recall_at_k(scores, 5)
    assert measured.metrics["image_to_audio/recall_at_1"] == recall_at_k(scores.T, 1)
    hits = (scores >= scores.diagonal()[:, None]).sum(dim=1) <= 5
    assert measured.intervals["audio_to_image/recall_at_5"] == pytest.approx(
        interval(lambda rows: hits[rows].double().mean().item(), 11, 0), abs=1e-12
    )
    assert set(measured.intervals) == set(measured.metrics) and measured.items == {
        "items": 11,
        "duplicates": 0,
        "left_out_bad_audio": 1,
    }


def test_head_win_rates_have_bootstrap_intervals(shards, model):
    gallery = Gallery(str(shards), 11, 4, 0)
    measured = HeadDisentanglement(gallery, gallery).evaluate(model)
    assert (
        set(measured.intervals)
        == set(measured.metrics)
        == {f"heads/{key}" for key in ("pred_dis", "act_dis", "head_0_win_rate", "head_1_win_rate")}
    )
    for key, (low, high) in measured.intervals.items():
        assert low <= measured.metrics[key] <= high or "dis" in key
    assert measured.items == {
        f"{name}_{what}": n
        for name in ("speech", "sound")
        for what, n in (("items", 11), ("duplicates", 0), ("left_out_bad_audio", 1))
    }
    low, high = measured.intervals["heads/head_0_win_rate"]
    other = measured.intervals["heads/head_1_win_rate"]
    assert (low, high) == pytest.approx((1 - other[1], 1 - other[0]), abs=1e-9)


def test_duplicate_clips_are_counted(tmp_path, model):
    folder = write_data_set(tmp_path / "twice", [4, 4], duration_s=0.8, frames=1)
    for kind in (".tar", ".json"):
        (folder / f"train-000001{kind}").write_bytes((folder / f"train-000000{kind}").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1] = manifest["shards"][0] | {"name": "train-000001"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    measured = Retrieval("places_retrieval", Gallery(str(folder), 8, 4, 0)).evaluate(model)
    assert measured.items == {"items": 8, "duplicates": 4}
    assert (
        measured.metrics["audio_to_image/recall_at_1"] == 0
    )  # the other copy scores the same, and equal scores rank first


def test_nonfinite_scores_raise_one_line(shards, model):
    gallery = Gallery(str(shards), 11, 4, 0)
    features = gallery.encode(model)
    with torch.inference_mode():
        features.audio.dense[4] = float("nan")
    for measured in (Retrieval("places_retrieval", gallery), HeadDisentanglement(gallery, gallery)):
        with pytest.raises(CommandFailed, match=r"1 of 11 (sounds|pairs) are not finite numbers"):
            measured.evaluate(model)
    gallery._encoded.clear()


@pytest.mark.slow
def test_vggsound_retrieval_from_its_published_table(tmp_path, model):
    world = ToyWorldConfig(out=str(tmp_path / "toy"), image_size_px=64)
    (tmp_path / "toy/vggsound/videos").mkdir(parents=True)
    rows = [layouts.make_item(world, "vggsound_test", number) for number in range(6)]
    table = "".join(f"{row['ytid']},{row['start_s']},a label,test\n" for row in rows)
    (tmp_path / "toy/vggsound/vggsound.csv").write_text(
        table + f"{rows[0]['ytid']},900,a label,train\nnot_there_01,3,a label,test\n"
    )
    source = [
        "source.kind=vggsound",
        f"source.root={tmp_path}/toy/vggsound",
        "source.split=test",
        f"out={tmp_path}/shards",
    ]
    build = [sys.executable, "-m", "pipelines.build", "config=configs/build/toy.yaml", *source]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True, timeout=200)
    config = EvalConfig(
        benchmarks=["vggsound_retrieval"],
        data={"vggsound": DataConfig(root=f"{tmp_path}/shards")},
        feature_cache_dir=f"{tmp_path}/kept",
    )
    measured = build_benchmarks(config)["vggsound_retrieval"].evaluate(model)
    assert measured.items == {"items": 6, "duplicates": 0} and "image_to_audio/recall_at_10" in measured.metrics
    assert len(list((tmp_path / "kept").iterdir())) == 1
