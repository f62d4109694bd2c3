"""Retrieval and disentanglement on a gallery: scores in parts, several ranks, intervals, feature cache, duplicates."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from paths import ROOT
from tiny_shards import jpeg, write_data_set
from tiny_training import tiny_config, tiny_model

from configs.errors import CommandFailed, UsageError
from configs.schema import DataConfig, EvalConfig, ToyWorldConfig
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval import benchmark as retrieval
from eval.benchmarks.retrieval.benchmark import Retrieval, all_scores
from eval.benchmarks.retrieval.disentanglement import HeadDisentanglement
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.retrieval.gallery import Gallery, PairFeatures
from eval.metrics.bootstrap import interval
from eval.metrics.retrieval import recall_at_k
from model.denseav import AudioFeatures, ImageFeatures
from pipelines.toy_world import layouts


@contextmanager
def recorded_calls(model, method, size):
    """Record the calls of a method of the model, by the size of their arguments."""
    calls, own = [], getattr(model, method)
    setattr(model, method, lambda *given: calls.append(size(*given)) or own(*given))
    try:
        yield calls
    finally:
        delattr(model, method)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eleven readable pairs and an unreadable one."""
    return write_data_set(
        tmp_path_factory.mktemp("pairs") / "shards",
        [5, 7],
        duration_s=0.8,
        frames=2,
        changes={3: {"flac": b"no sound at all" * 9}},
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return tiny_model(tiny_config("model.num_heads=2")).eval()


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
    gallery._encoded = None


# ---------------------------------------------------------------------------------------------- feature cache


def _evaluate_cached(folder, shards, model, size=11, seed=0, batch_size=4):
    """The results of retrieval, and the number of encoded batches."""
    with recorded_calls(model, "encode_image", len) as calls:
        found = Retrieval("r", Gallery(str(shards), size, batch_size, seed, FeatureCache(str(folder)))).evaluate(model)
    return _figures(found), len(calls)


def _figures(measured):
    return measured.metrics, measured.items, measured.intervals


def test_second_run_uses_the_feature_cache(shards, model, tmp_path):
    first, asked = _evaluate_cached(tmp_path / "a/cache", shards, model)
    assert (
        asked == 4 and len(list((tmp_path / "a/cache").iterdir())) == 1
    )  # 11 items and the one in place of the unreadable clip
    assert _evaluate_cached(tmp_path / "a/cache", shards, model) == (first, 0)
    assert (
        _figures(Retrieval("r", Gallery(str(shards), 11, 4, 0)).evaluate(model)) == first
        and first[1]["left_out_bad_audio"] == 1
    )


def test_feature_cache_depends_on_weights_data_and_settings(shards, model, tmp_path):
    other_data = write_data_set(tmp_path / "other", [12], duration_s=0.8, frames=1, changes={0: {"0.jpg": jpeg(7)}})
    assert _evaluate_cached(tmp_path / "kept", shards, model)[1] == 4
    other = tiny_model(tiny_config("model.num_heads=2")).eval()
    other.load_state_dict(model.state_dict())
    assert _evaluate_cached(tmp_path / "kept", shards, other)[1] == 0  # the same weights in another object
    with torch.no_grad():
        next(other.audio_projection.parameters())[0] += 1e-6
    assert _evaluate_cached(tmp_path / "kept", shards, other)[1] > 0
    assert _evaluate_cached(tmp_path / "kept", other_data, model)[1] > 0
    assert (
        _evaluate_cached(tmp_path / "kept", shards, model, size=10)[1] > 0
        and _evaluate_cached(tmp_path / "kept", shards, model, seed=1)[1] > 0
    )
    assert len(list((tmp_path / "kept").iterdir())) == 5


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4] + b"\1\2\3\4", lambda b: b[:2], lambda b: b * 2]
)
def test_damaged_cache_file_is_encoded_again_with_a_warning(shards, model, tmp_path, damage, capsys):
    first, _ = _evaluate_cached(tmp_path, shards, model)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    assert _evaluate_cached(tmp_path, shards, model) == (first, 4)
    assert f"warning: {file}" in capsys.readouterr().err
    assert _evaluate_cached(tmp_path, shards, model) == (first, 0)
    assert "warning" not in capsys.readouterr().err  # on a slow machine there is a progress bar


def test_unwritable_cache_folder_raises_or_warns(shards, model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"feature_cache_dir=.*/file/kept: Not a directory"):
        FeatureCache(str(tmp_path / "file/kept"))
    kept = FeatureCache(str(tmp_path / "kept"))
    kept.folder.rmdir()
    assert Retrieval("r", Gallery(str(shards), 11, 4, 0, kept)).evaluate(model).items["items"] == 11
    assert "warning: features are not cached in" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- size and ranks

MEMORY = """
import resource, sys
import torch
from eval.benchmarks.retrieval.gallery import PairFeatures
from eval.benchmarks.retrieval.benchmark import all_scores
from eval.metrics.retrieval import ranks
from model.denseav import AudioFeatures, ImageFeatures
from tiny_training import tiny_config, tiny_model

torch.set_num_threads(2)
pairs = int(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
model = tiny_model(tiny_config("model.num_heads=2")).eval()
def make(n):
    audio = AudioFeatures(torch.randn(n, 2, 4, 5), torch.ones(n, 5, dtype=torch.bool))
    return PairFeatures(ImageFeatures(torch.randn(n, 2, 4, 3, 3)), audio)

ranks(all_scores(make(50), model))
features = make(pairs)
held = peak()
scores = all_scores(features, model)
found = ranks(scores), ranks(scores.T)
print(peak() - held, len(found[0]), scores.shape[1])
"""


@pytest.mark.slow
def test_ten_thousand_pairs_are_scored_within_a_gigabyte():
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "10000"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=580,
    )
    gigabytes, *shape = done.stdout.split()
    assert shape == ["10000", "10000"] and 0.35 < float(gigabytes) < 1.0, done.stdout


RANKS = """
import json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from eval.benchmarks.retrieval import benchmark as retrieval
from eval.benchmarks.registry import build_benchmarks
from eval.benchmarks.retrieval.disentanglement import HeadDisentanglement
from eval.benchmarks.retrieval.gallery import Gallery
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.benchmarks.prompted_ade20k.benchmark import PromptedADE20K
from eval.benchmarks.retrieval.benchmark import Retrieval
from tiny_training import tiny_config, tiny_model

state = PartialState(cpu=True)
retrieval.MAX_SCORES = 2 * 11 * 3  # three rows at a time: uneven on two and three ranks
shards, prompted, out = sys.argv[1:]
torch.manual_seed(1)
model = tiny_model(tiny_config("model.num_heads=2")).eval()
results = {}
for run in range(2):
    gallery = Gallery(shards, 11, 2, 0, FeatureCache(f"{out}/kept{state.num_processes}"))
    prompts = PromptedADE20K(prompted, "speech", 4, 0)
    benchmarks = [Retrieval("r", gallery), HeadDisentanglement(gallery, gallery), prompts]
    found = [benchmark.evaluate(model) for benchmark in benchmarks]
    results[run] = [[dict(part) for part in (f.metrics, f.chance, f.items, f.per_class, f.intervals)] for f in found]
Path(out, f"{state.num_processes}-{state.process_index}.json").write_text(json.dumps(results))
state.destroy_process_group()
"""


@pytest.mark.slow
def test_one_and_three_processes_give_identical_json(shards, tmp_path):
    from tiny_prompted import write_prompted

    prompted = write_prompted(tmp_path / "prompted", count=7)
    (tmp_path / "ranks.py").write_text(RANKS)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    for ranks in (1, 3):
        launch = (
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            if ranks > 1
            else [sys.executable]
        )
        command = [*launch, str(tmp_path / "ranks.py"), str(shards), str(prompted), str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
    texts = [(tmp_path / f"{ranks}-{rank}.json").read_text() for ranks, rank in ((1, 0), (3, 0), (3, 1), (3, 2))]
    assert len(set(texts)) == 1
    first, again = json.loads(texts[0]).values()
    assert first == again and len(first[0][0]) == 6 and len(first[2][4]) >= 4


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
